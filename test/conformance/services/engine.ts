/** What an engine has to bring to run through the suite. */
import type { Netns } from '../../../src/kernel/netns/index.ts';
import type { ServiceEngine, StaleSockets } from '../../../src/service/index.ts';

/** A node that an engine is opened for. */
export interface EngineNode {
  readonly nodeName: string;
  readonly netns: Netns;
  /** A mounted bpffs of this node's own. */
  readonly bpffsDir: string;
  readonly cgroupPath: string;
  readonly onStaleSockets: (stale: StaleSockets) => void;
}

/** An engine as the suite sees it. */
export interface EngineUnderTest {
  readonly name: string;
  /** Opens it for a node, with everything besides that it needs there (rules that masquerade). */
  open(node: EngineNode): Promise<ServiceEngine>;
  /**
   * Where clients outside have to be served. Links then hand packets over as network cards do: with whole checksums, and
   * they send what XDP redirects to them; and the engine is told the nodes' addresses on them.
   */
  readonly hook?: string | undefined;
  /**
   * Cases that this engine can't hold, by id, with the reason. They run too, and must fail: a statement that is no
   * longer true is found.
   */
  readonly cannot: Readonly<Record<string, string>>;
}
