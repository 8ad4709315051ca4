/** An API server as a process of its own: `apiserver-process.ts DATA_DIR PORT`; prints a line when it is ready. */
import { flushCompileCache } from 'node:module';
import { startApiServer } from '../../src/apiserver/index.ts';

const [dataDir, port] = process.argv.slice(2) as [string, string];
const server = await startApiServer({
  dataDir,
  listen: [{ host: '127.0.0.1', port: Number(port) }],
  log: (level, fields, message) => {
    if (level === 'error') process.stderr.write(`${message} ${JSON.stringify(fields)}\n`);
  },
});
// Whoever kills it lets it keep nothing at its end.
flushCompileCache();
process.stdout.write(`${server.url}\n`);
process.once('SIGTERM', () => void server.close());
