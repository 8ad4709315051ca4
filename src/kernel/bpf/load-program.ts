/** BPF_BTF_LOAD and BPF_PROG_LOAD, with the verifier's words when it refuses. */
import { viewOf } from '../../codec/index.ts';
import { bpfError, kernelError } from '../../errors/index.ts';
import { Arena, closeFd, ERRNO, kernelFailure } from '../syscall/index.ts';
import { bpf, loadWithoutSignals, putName, textOf } from './call.ts';
import { CMD } from './constants.ts';
import { kernelTypeId } from './kernel-btf.ts';
import { type Fixup, INSTRUCTION_SIZE, PSEUDO } from './link-code.ts';
import type { BpfMap } from './map.ts';
import type { ObjectFile, ProgramDefinition } from './object-file.ts';
import { BpfProgram } from './prog.ts';

/** Room for the verifier's log: enough for nearly all programs, then what the kernel allows as a second try. */
/** How often a load is tried that a pending signal ends. */
const LOAD_TRIES = 6;
const LOG_BYTES = [1 << 20, 16 << 20] as const;
/** Lines of the log that go into the message. */
const TAIL_LINES = 12;

/** Gives type information to the kernel; returns its descriptor. Throws BPF_BTF_REFUSED, KERNEL_NEEDS_ROOT. */
export function loadBtf(data: Uint8Array, label: string): number {
  const ATTR = 32;
  const LOG = 64 << 10;
  const arena = new Arena(ATTR + data.length + LOG + 64);
  const attr = arena.reserve(ATTR);
  const { view } = arena;
  arena.point(attr, arena.put(data));
  view.setUint32(attr + 16, data.length, true);
  const quiet = bpf(CMD.BTF_LOAD, arena.from(attr, ATTR));
  if (quiet >= 0) return quiet;
  if (quiet === -ERRNO.EPERM)
    throw kernelError('KERNEL_NEEDS_ROOT', { action: `load BPF object "${label}"` }, kernelFailure(quiet));
  const log = arena.reserve(LOG);
  arena.point(attr + 8, log);
  view.setUint32(attr + 20, LOG, true);
  view.setUint32(attr + 24, 1, true);
  const result = bpf(CMD.BTF_LOAD, arena.from(attr, ATTR));
  if (result >= 0) return result;
  const text = textOf(arena.from(log, LOG));
  throw bpfError('BPF_BTF_REFUSED', { object: label, log: tail(text) }, kernelFailure(quiet));
}

/** A copy of the program's instructions with descriptors and kernel ids in their places. */
export function fixInstructions(
  file: ObjectFile,
  program: ProgramDefinition,
  maps: ReadonlyMap<string, BpfMap>,
  data: ReadonlyMap<string, BpfMap>,
): Uint8Array {
  const code = program.code.instructions.slice();
  const view = viewOf(code);
  const put = (instruction: number, pseudo: number, first: number, second: number) => {
    const at = instruction * INSTRUCTION_SIZE;
    code[at + 1] = (code[at + 1]! & 15) | (pseudo << 4);
    view.setInt32(at + 4, first, true);
    view.setInt32(at + 12, second, true);
  };
  for (const fixup of program.code.fixups) {
    if (fixup.kind === 'map') {
      const definition = file.maps.find((map) => map.offset === fixup.offset);
      const map = definition && maps.get(definition.name);
      if (!map) return unresolved(file, program, `map at offset ${fixup.offset} of .maps`);
      put(fixup.instruction, PSEUDO.mapFd, map.fd, 0);
    } else if (fixup.kind === 'data') {
      const section = file.data.find((candidate) => candidate.sectionIndex === fixup.section);
      const map = section && data.get(section.name);
      if (!section || !map)
        return unresolved(file, program, `section "${file.elf.sections[fixup.section]?.name}"`);
      put(fixup.instruction, PSEUDO.mapValue, map.fd, fixup.offset);
    } else fixKernelSymbol(file, program, fixup, code);
  }
  return code;
}

function unresolved(file: ObjectFile, program: ProgramDefinition, why: string): never {
  throw bpfError('BPF_OBJECT_UNSUPPORTED', {
    object: file.label,
    what: `program "${program.name}"`,
    why: `it refers to ${why}, which is no map or data section`,
  });
}

/** A kfunc call gets the function's id; the address of a weak one that is absent is 0, which the program tests. */
function fixKernelSymbol(
  file: ObjectFile,
  program: ProgramDefinition,
  fixup: Fixup & { kind: 'kernel' },
  code: Uint8Array,
): void {
  const { name, weak, call, instruction } = fixup;
  const id = kernelTypeId(name, 'function') ?? (call ? undefined : kernelTypeId(name, 'variable'));
  if (id === undefined && !weak)
    throw bpfError('BPF_NO_KERNEL_TYPE', { object: `${file.label}:${program.name}`, what: 'function', name });
  const view = viewOf(code);
  const at = instruction * INSTRUCTION_SIZE;
  if (call) {
    code[at + 1] = (code[at + 1]! & 15) | (PSEUDO.kfunc << 4);
    view.setInt16(at + 2, 0, true);
    view.setInt32(at + 4, id ?? 0, true);
  } else {
    code[at + 1] = (code[at + 1]! & 15) | ((id === undefined ? 0 : PSEUDO.btfId) << 4);
    view.setInt32(at + 4, id ?? 0, true);
    view.setInt32(at + 12, 0, true);
  }
}

/** Loads one program. Throws BPF_PROGRAM_REFUSED with the verifier's log, BPF_NO_KERNEL_TYPE. */
export function loadProgram(
  file: ObjectFile,
  program: ProgramDefinition,
  code: Uint8Array,
  btfFd: number,
): BpfProgram {
  const { kind } = program;
  let targetId = 0;
  if (kind.kernelTarget) {
    const { name, what } = kind.kernelTarget;
    const id = kernelTypeId(name, what);
    if (id === undefined) throw bpfError('BPF_NO_KERNEL_TYPE', { object: file.label, what, name });
    targetId = id;
  }
  const attempt = (logBytes: number): { result: number; log: string } => {
    const ATTR = 144;
    const { functions, lines, relocations } = program.code;
    const size = code.length + functions.data.length + lines.data.length + relocations.data.length;
    const arena = new Arena(ATTR + size + file.license.length + logBytes + 256);
    const attr = arena.reserve(ATTR);
    const { view } = arena;
    view.setUint32(attr, kind.type, true);
    view.setUint32(attr + 4, code.length / INSTRUCTION_SIZE, true);
    arena.point(attr + 8, arena.put(code));
    arena.point(attr + 16, arena.putString(file.license));
    view.setUint32(attr + 44, kind.flags, true);
    putName(arena, attr + 48, program.name);
    view.setUint32(attr + 68, kind.attachType, true);
    if (functions.count > 0) {
      view.setUint32(attr + 72, btfFd, true);
      view.setUint32(attr + 76, functions.recordSize, true);
      arena.point(attr + 80, arena.put(functions.data));
      view.setUint32(attr + 88, functions.count, true);
      if (lines.count > 0) {
        view.setUint32(attr + 92, lines.recordSize, true);
        arena.point(attr + 96, arena.put(lines.data));
        view.setUint32(attr + 104, lines.count, true);
      }
      if (relocations.count > 0) {
        view.setUint32(attr + 116, relocations.count, true);
        arena.point(attr + 128, arena.put(relocations.data));
        view.setUint32(attr + 136, relocations.recordSize, true);
      }
    }
    view.setUint32(attr + 108, targetId, true);
    let logAt = 0;
    if (logBytes > 0) {
      logAt = arena.reserve(logBytes);
      view.setUint32(attr + 24, 1, true);
      view.setUint32(attr + 28, logBytes, true);
      arena.point(attr + 32, logAt);
    }
    const result = loadWithoutSignals(arena.from(attr, ATTR), LOAD_TRIES);
    return { result, log: logBytes > 0 ? textOf(arena.from(logAt, logBytes)) : '' };
  };

  const { result } = attempt(0);
  if (result >= 0) return new BpfProgram(result, program.name, kind);
  let log = '';
  for (const bytes of LOG_BYTES) {
    const second = attempt(bytes);
    if (second.result >= 0) closeFd(second.result);
    log = second.log;
    if (second.result !== -ERRNO.ENOSPC) break;
  }
  throw bpfError(
    'BPF_PROGRAM_REFUSED',
    { object: file.label, program: program.name, section: program.section, tail: tail(log), log },
    kernelFailure(result),
  );
}

/** The last lines of a log, without the verifier's statistics at the end. */
function tail(log: string): string {
  const lines = log
    .trimEnd()
    .split('\n')
    .filter((line) => !/^(processed \d+ insns|verification time|stack depth)/.test(line));
  return lines.slice(-TAIL_LINES).join('\n');
}
