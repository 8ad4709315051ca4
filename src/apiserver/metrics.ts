/** The API server's figures for Prometheus, for admins at /metrics. */
import { Durations, type Metric, metricsText, processMetrics, single } from '../reconcile/index.ts';
import type { ApiResponse } from './http/response.ts';

export class ApiMetrics {
  readonly #requests = new Durations();
  readonly #watches = new Map<string, number>();

  /** A request was answered; a watch when it began. */
  request(verb: string, resource: string, code: number, seconds: number): void {
    this.#requests.observe(seconds, { verb, resource, code });
  }

  /** The same answer, counted as an open watch while it streams. */
  watch(resource: string, answer: ApiResponse): ApiResponse {
    const { stream } = answer;
    if (!stream) return answer;
    const count = (by: number) => this.#watches.set(resource, (this.#watches.get(resource) ?? 0) + by);
    return {
      ...answer,
      stream: (sink) => {
        count(1);
        if (sink.signal.aborted) count(-1);
        else sink.signal.addEventListener('abort', () => count(-1), { once: true });
        return stream(sink);
      },
    };
  }

  text(state: { readonly revision: number; readonly version: string }): Promise<string> {
    const watches: Metric = {
      name: 'portolan_apiserver_watches',
      help: 'Open watches by resource.',
      type: 'gauge',
      values: [...this.#watches].map(([resource, value]) => ({ labels: { resource }, value })),
    };
    return metricsText([
      {
        name: 'portolan_build_info',
        help: 'Version of the API server.',
        type: 'gauge',
        values: [{ labels: { version: state.version }, value: 1 }],
      },
      this.#requests.metric(
        'portolan_apiserver_request_seconds',
        'Requests by verb, resource and HTTP status; of watches until they are open.',
      ),
      watches,
      single('portolan_apiserver_store_revision', 'Last revision of the store.', 'gauge', state.revision),
      ...processMetrics(),
    ]);
  }
}
