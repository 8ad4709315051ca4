/**
 * Every failure that Portolan reports has one entry here or in a sibling catalogue: a stable code, a typed
 * context, what happened, and what a person can do about it. Callers match on `code`, never on text.
 */

/** How one failure is told: `happened` says what is wrong and where, `remedy` what a person can do. */
export interface ErrorEntry<Context> {
  readonly happened: (context: Context) => string;
  readonly remedy: (context: Context) => string;
}

/** Declares a catalogue entry; exists so that the context type is written once. */
export function entry<Context>(
  happened: (context: Context) => string,
  remedy: (context: Context) => string,
): ErrorEntry<Context> {
  return { happened, remedy };
}

/** The context type of an entry of a catalogue. */
export type ContextOf<Entry> = Entry extends ErrorEntry<infer Context> ? Context : never;

/** The kernel's own answer, kept as the cause of an error that came out of a system call or netlink. */
export interface KernelCause {
  /** Positive errno as in `asm-generic/errno-base.h`, e.g. 17. */
  readonly errno: number;
  /** Name of that errno, e.g. `EEXIST`. */
  readonly name: string;
  /** Text of the extended ack, the verifier log, or the failing call. */
  readonly message?: string;
}

/** An error with a stable code, a typed context and a remedy. */
export class NetError<Code extends string = string> extends Error {
  readonly code: Code;
  readonly context: Readonly<Record<string, unknown>>;
  /** What a person can do about it, one or two sentences. */
  readonly remedy: string;

  constructor(code: Code, told: { message: string; remedy: string; context: object }, cause?: unknown) {
    super(told.message, cause === undefined ? undefined : { cause });
    this.name = 'NetError';
    this.code = code;
    this.remedy = told.remedy;
    this.context = told.context as Readonly<Record<string, unknown>>;
  }
}

// biome-ignore lint/suspicious/noExplicitAny: a catalogue holds entries of differing context types
export type Catalogue = Readonly<Record<string, ErrorEntry<any>>>;

/**
 * Makes the error constructor of one catalogue, so that code and context are checked together:
 * `const rtnlError = errorsOf(rtnlCatalogue); throw rtnlError('RTNL_LINK_EXISTS', { name, kind }, cause)`.
 */
export function errorsOf<const C extends Catalogue>(catalogue: C) {
  return <Code extends keyof C & string>(
    code: Code,
    context: ContextOf<C[Code]>,
    cause?: unknown,
  ): NetError<Code> => {
    const told = catalogue[code]!;
    return new NetError(
      code,
      { message: told.happened(context), remedy: told.remedy(context), context: context as object },
      cause,
    );
  };
}

/** True when `error` is a NetError, and has this code if one is given. */
export function isNetError<Code extends string>(error: unknown, code?: Code): error is NetError<Code> {
  return error instanceof NetError && (code === undefined || error.code === code);
}

/** The errno behind an error, searched through its causes, or undefined when no kernel answer is involved. */
export function kernelCause(error: unknown): KernelCause | undefined {
  for (let at: unknown = error; at instanceof Error; at = at.cause) {
    const cause = at.cause;
    // Node's own errors have an errno as well, but negative, and "Error" for a name; they are walked through.
    if (cause instanceof Error) continue;
    if (typeof cause === 'object' && cause !== null && 'errno' in cause && 'name' in cause)
      return cause as KernelCause;
  }
  return undefined;
}

/** `error[CODE]: message` and the remedy on a line of its own, as the command line prints it on stderr. */
export function formatError(error: unknown): string {
  if (error instanceof AggregateError) return error.errors.map(formatError).join('\n');
  if (isNetError(error)) {
    const kernel = kernelCause(error);
    const told = kernel ? ` (${kernel.message ? `${kernel.message}; ` : ''}${kernel.name})` : '';
    return `error[${error.code}]: ${error.message}${told}\n  ${error.remedy}`;
  }
  if (error instanceof Error) return `error[INTERNAL]: ${error.stack ?? error.message}`;
  return `error[INTERNAL]: ${String(error)}`;
}
