/** The command line. Exit 0 done, 1 failed, 2 wrong usage. */
import { CommanderError } from 'commander';
import { formatError, isNetError } from '../errors/index.ts';
import { styled } from './output.ts';
import { program } from './program.ts';

// A reader such as "head" that has seen enough is no failure, and a log that nobody reads ends no server.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit();
  // A full disk, say: what was to be read is not there, and no fault of ours to show a stack for.
  console.error(`error: Cannot write to standard output: ${error.message}`);
  process.exit(1);
});
process.stderr.on('error', () => {});

const UNREADABLE = new Set(['POLICY_BAD_PORT', 'EGRESS_BAD_ADDRESS', 'EGRESS_BAD_FROM', 'ADDR_BAD_CIDR']);

try {
  await program().parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    // Commander has printed its own message; its 1 for wrong usage is 2 here.
    process.exitCode = error.exitCode === 0 ? 0 : 2;
  } else {
    console.error(inColour(formatError(error)));
    // At once: something that had been opened before the failure must not keep the process alive.
    process.exit(isNetError(error) && isWrongUsage(error.code) ? 2 : 1);
  }
}

/** What a person wrote cannot be read, whatever there is: not to be taken for the "no" of a command that answers by 1. */
function isWrongUsage(code: string): boolean {
  return code.endsWith('_BAD_OPTION') || UNREADABLE.has(code);
}

/** The code of an error stands out on a terminal. */
function inColour(text: string): string {
  return text.replace(/^error\[\w+\]/, (code) => styled('red', code, process.stderr));
}
