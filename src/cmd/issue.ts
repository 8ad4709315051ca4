/** `portolan apiserver issue-node | issue-controller`: credentials by which others reach this API server. */
import { existsSync, renameSync, writeFileSync } from 'node:fs';
import type { Command } from 'commander';
import { apiError } from '../errors/api.ts';

interface IssueFlags {
  dataDir: string;
  server?: string;
  out?: string;
}

const DATA_DIR = '/var/lib/portolan/apiserver';

export function registerIssue(apiserver: Command): void {
  const issuing = (command: Command) =>
    command
      .option('--data-dir <path>', 'directory of the API server', DATA_DIR)
      .option('--server <url>', 'where they reach it (default: as in its admin.kubeconfig)')
      .option('--out <file>', 'write it there, readable by its owner only, instead of printing it');

  issuing(apiserver.command('issue-node'))
    .description('print a new kubeconfig for the agent of a node; it may change only what is that node')
    .argument('<name>', 'name of the Node')
    .addHelpText(
      'after',
      `
Run it on the machine of the API server, which need not be stopped. The certificate is valid for a year.

Examples:
  portolan apiserver issue-node host2 --server https://192.0.2.1:6443 --out host2.kubeconfig
  portolan apiserver issue-node host2 --server https://192.0.2.1:6443 | ssh host2 'umask 77; cat >/etc/portolan/node.kubeconfig'`,
    )
    .action(async (name: string, flags: IssueFlags) => {
      if (!/^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/.test(name))
        throw apiError('API_BAD_OPTION', {
          option: 'NAME',
          value: name,
          want: 'a lower-case host name, as Kubernetes names nodes',
        });
      const { issueNodeKubeconfig } = await import('../apiserver/index.ts');
      await give(flags, (server) => issueNodeKubeconfig(flags.dataDir, name, server));
    });

  issuing(apiserver.command('issue-controller'))
    .description('print a new kubeconfig for "portolan controller"')
    .addHelpText(
      'after',
      '\nExamples:\n  portolan apiserver issue-controller --out /etc/portolan/controller.kubeconfig',
    )
    .action(async (flags: IssueFlags) => {
      const { issueControllerKubeconfig } = await import('../apiserver/index.ts');
      await give(flags, (server) => issueControllerKubeconfig(flags.dataDir, server));
    });
}

type Issue = (server: string) => Promise<import('../apiserver/index.ts').Kubeconfig>;

async function give(flags: IssueFlags, issue: Issue): Promise<void> {
  const server = checkUrl(flags.server ?? (await knownServer(flags.dataDir)));
  const { kubeconfigText, serverNames } = await import('../apiserver/index.ts');
  const text = kubeconfigText(await issue(server.href.replace(/\/$/, '')));
  if (flags.out === undefined) process.stdout.write(text);
  else writeOut(flags.out, text);
  const names = serverNames(flags.dataDir);
  const host = server.hostname.replace(/^\[|\]$/g, '');
  if (names && !names.covers(host))
    console.error(
      `warning: the server's certificate does not name ${host}: start it with --advertise-address ${host} (an address) or --name ${host}`,
    );
}

/** Whole or not at all, and never readable by others. */
function writeOut(path: string, text: string): void {
  try {
    writeFileSync(`${path}.new`, text, { mode: 0o600 });
    renameSync(`${path}.new`, path);
  } catch (cause) {
    const want = `a file that can be written: ${(cause as Error).message}`;
    throw apiError('API_BAD_OPTION', { option: '--out', value: path, want }, cause);
  }
}

/** The address at which the server listened last. */
async function knownServer(dataDir: string): Promise<string> {
  const path = `${dataDir}/admin.kubeconfig`;
  if (!existsSync(path))
    throw apiError('API_BAD_OPTION', {
      option: '--data-dir',
      value: dataDir,
      want: 'the directory of an API server that has been started once',
    });
  const { loadKubeconfig } = await import('../client/index.ts');
  return loadKubeconfig(path).server;
}

function checkUrl(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url?.protocol !== 'https:')
    throw apiError('API_BAD_OPTION', {
      option: '--server',
      value: text,
      want: 'a URL such as https://192.0.2.1:6443',
    });
  return url;
}
