/**
 * Puts counters that the kernel takes where clang's `-fprofile-instr-generate -fcoverage-mapping` wants some. Pure: text
 * of LLVM's intermediate representation in, text out.
 *
 *   clang, no passes ──► calls of llvm.instrprof.increment ──► instrument(): increments of one array in `.data.cov`,
 *                                                               which the loader makes an array map of
 *   opt -passes=instrprof ─► tables about the source ─────────► mapping(): what llvm-cov reads
 *
 * LLVM's own lowering (load, add, store of a variable a function) keeps addresses in registers over whole functions:
 * programs near the limit of 512 bytes of stack go beyond it by what is spilled. The increments here are assembly that
 * takes two registers for three instructions, which nothing is shared between.
 */

/** One function's counters. */
export interface CountedFunction {
  /** As profiles name it: `lb_node.bpf.c:static_function` or `global_function`. */
  readonly name: string;
  /** Of its syntax tree, unsigned decimal: a profile fits no other state of the source. */
  readonly hash: string;
  /** Index of the first in the array. */
  readonly first: number;
  readonly counters: number;
}

export interface Instrumented {
  /** To be compiled for BPF. */
  readonly program: string;
  /** In the array's first element stands whose counters they are. */
  readonly functions: readonly CountedFunction[];
}

/** A section that is a map of its own, because its name begins with `.data`. */
export const COUNTER_SECTION = '.data.cov';

/** Groups: variable with the function's name, hash, counters, index, step if not 1, what else is said of the call. */
const INCREMENT =
  /^ +call void @llvm\.instrprof\.increment(?:\.step)?\(i8\* getelementptr inbounds \(.*? @"?(__profn_[^",]+)"?, i32 0, i32 0\), i64 (-?\d+), i32 (\d+), i32 (\d+)(?:, i64 ([^)]+))?\)(.*)$/;
const NAME = /^@"?(__profn_[^"\s]+)"? = .*? c"(.*)"/;
const TABLES = /^(@__llvm_coverage_mapping|@__covrec_|@__llvm_prf_nm|@llvm\.used|\$__covrec_)/;
/** What a program has no use for. `llvm.used` names tables only: maps and programs are in `llvm.compiler.used`. */
const LEFT_OUT =
  /^(@llvm\.used|@"?__profn_|@__llvm_coverage_|@__covrec_|\$__covrec_|declare void @llvm\.instrprof)/;
/** Offsets in instructions are 16 bits with a sign. */
const LAST_OFFSET = 32_767;

/** Puts counters into a module; `run` is the first element of their array. Throws on what is not understood. */
export function instrument(text: string, run: bigint): Instrumented {
  const lines = text.split('\n');
  const names = new Map<string, string>();
  for (const line of lines) {
    const found = NAME.exec(line);
    if (found) names.set(found[1]!, found[2]!);
  }
  const functions = new Map<string, CountedFunction>();
  const program: string[] = [];
  let elements = 1;
  let calls = 0;
  for (const line of lines) {
    if (LEFT_OUT.test(line)) continue;
    const increment = INCREMENT.exec(line);
    if (!increment) {
      if (line.includes('@llvm.instrprof')) throw new Error(`not understood: ${line}`);
      program.push(line);
      continue;
    }
    const [, symbol, hash, counters, index, step, rest] = increment;
    const name = names.get(symbol!);
    if (name === undefined) throw new Error(`no name of "${symbol}"`);
    let counted = functions.get(name);
    if (!counted) {
      const unsigned = BigInt.asUintN(64, BigInt(hash!)).toString();
      counted = { name, hash: unsigned, first: elements, counters: Number(counters) };
      functions.set(name, counted);
      elements += counted.counters;
    }
    const offset = (counted.first + Number(index)) * 8;
    if (offset > LAST_OFFSET) throw new Error(`${elements} counters are more than one instruction reaches`);
    const add = `lock *(u64 *)($0 + ${offset}) += $1`;
    const result = `  %coverage${++calls} = call`;
    program.push(
      step === undefined
        ? `${result} { i64, i64 } asm sideeffect "$0 = __coverage ll\\0A\\09$1 = 1\\0A\\09${add}", "=&r,=&r"()${rest}`
        : `${result} i64 asm sideeffect "$0 = __coverage ll\\0A\\09${add}", "=&r,r"(i64 ${step})${rest}`,
    );
  }
  if (calls === 0) throw new Error('the module has nothing to count');
  const zeros = Array.from({ length: elements - 1 }, () => 'i64 0').join(', ');
  program.splice(
    program.findIndex((line) => line.startsWith('@')),
    0,
    `@__coverage = global [${elements} x i64] [i64 ${run}, ${zeros}], section "${COUNTER_SECTION}", align 8`,
  );
  return { program: program.join('\n'), functions: [...functions.values()] };
}

/** The tables of a lowered module, to be compiled for the machine at hand: data only. */
export function mapping(text: string): string {
  return `${text
    .split('\n')
    .filter((line) => TABLES.test(line))
    .join('\n')}\n`;
}
