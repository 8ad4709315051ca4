/** The command line. Exit 0 done, 1 failed, 2 wrong usage. */
import { CommanderError } from 'commander';
import { formatError, isNetError } from '../errors/index.ts';
import { program } from './program.ts';

try {
  await program().parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    // Commander has printed its own message; its 1 for wrong usage is 2 here.
    if (error.code === 'portolan.shell') console.error(error.message);
    process.exitCode = error.exitCode === 0 ? 0 : 2;
  } else {
    console.error(formatError(error));
    process.exitCode = isNetError(error) && error.code.endsWith('_BAD_OPTION') ? 2 : 1;
  }
}
