import { type Level, pino } from 'pino';

/** Where long-running commands tell what they do; pino's calls, so that every part can take it. */
export interface CommandLog {
  debug(context: object, message: string): void;
  info(context: object, message: string): void;
  warn(context: object, message: string): void;
  error(context: object, message: string): void;
}

/** Logs on stderr: lines for people, or pino's JSON lines. Levels: debug, info, warn, error. */
export function commandLog(options: { level: string; json: boolean }): CommandLog {
  const logger = pino(
    { level: options.level, base: null, timestamp: pino.stdTimeFunctions.isoTime },
    pino.destination({ dest: 2, sync: true }),
  );
  if (options.json) return logger;
  const say = (level: Level) => (context: object, message: string) => {
    if (!logger.isLevelEnabled(level)) return;
    const told = Object.entries(context).map(
      ([key, value]) => ` ${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`,
    );
    process.stderr.write(`${new Date().toISOString()} ${level.padEnd(5)} ${message}${told.join('')}\n`);
  };
  return { debug: say('debug'), info: say('info'), warn: say('warn'), error: say('error') };
}

/** Resolves at the first SIGINT or SIGTERM; a second one ends the process at once. */
export function untilStopped(): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => resolve());
  });
}
