/** An open flow between a client and a backend, as one engine hands it to the other. */
import type { IpAddress } from '../addr/index.ts';

export interface FlowEnd {
  readonly address: IpAddress;
  readonly port: number;
}

export interface TranslatedFlow {
  /** IPPROTO_TCP or IPPROTO_UDP. */
  readonly protocol: number;
  readonly client: FlowEnd;
  /** The frontend that the client talks to. */
  readonly vip: FlowEnd;
  readonly backend: FlowEnd;
  /** Whom the backend sees, where the engine itself replaces the client. */
  readonly source: FlowEnd | undefined;
  /** The backend has answered. */
  readonly replied: boolean;
}
