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
    process.stderr.write(`${new Date().toISOString()} ${logLine(level, context, message)}\n`);
  };
  return { debug: say('debug'), info: say('info'), warn: say('warn'), error: say('error') };
}

/** A line for people: level, message, then key=value. What would break the line, or pass for another, is quoted. */
export function logLine(level: string, context: object, message: string): string {
  const told = Object.entries(context)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => ` ${key}=${valueText(value)}`);
  return `${level.padEnd(5)} ${safe(message)}${told.join('')}`;
}

function valueText(value: unknown): string {
  if (typeof value === 'string') return safe(value);
  if (value instanceof Error) return safe(value.message);
  return JSON.stringify(value, (_key, item) => (typeof item === 'bigint' ? item.toString() : item)) ?? '';
}

function safe(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: those of a terminal are meant
  return /[\u0000-\u001f\u007f]/.test(text) ? JSON.stringify(text) : text;
}
