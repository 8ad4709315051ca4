export * from './api-client.ts';
export * from './backoff.ts';
export * from './event-recorder.ts';
export * from './kubeconfig.ts';
export * from './leader-elector.ts';
export * from './node-lease.ts';
export * from './reflector.ts';
export * from './resources.ts';
export { defaultLineLimitBytes, LineSplitter, parseWatchLine, type WatchEvent } from './watch-stream.ts';
