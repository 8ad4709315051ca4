/**
 * What the bundle has in the place of `node:http`. An import of that module by name makes Node read all its exports
 * once, and three of them (WebSocket, CloseEvent, MessageEvent) load an HTTP client that nobody here uses: 13 MiB of
 * memory in every process and 35 ms of each start. The module itself is the same.
 */
const http = process.getBuiltinModule('node:http');

export const {
  Agent,
  ClientRequest,
  createServer,
  get,
  globalAgent,
  IncomingMessage,
  maxHeaderSize,
  METHODS,
  OutgoingMessage,
  request,
  Server,
  ServerResponse,
  STATUS_CODES,
  setMaxIdleHTTPParsers,
  validateHeaderName,
  validateHeaderValue,
} = http;
export default http;
