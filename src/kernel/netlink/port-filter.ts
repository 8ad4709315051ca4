import { Arena, checked, NR, sys } from '../syscall/index.ts';

const SOL_SOCKET = 1;
const SO_ATTACH_FILTER = 26;

/**
 * Has the kernel leave out what came of requests over the sockets with these ports, before it wakes anybody: a
 * classic BPF program that looks at nlmsg_pid, at offset 12 of struct nlmsghdr.
 */
export function ignorePorts(fd: number, ports: readonly number[]): void {
  // linux/bpf_common.h: BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
  const code: [code: number, jt: number, jf: number, k: number][] = [
    [0x20, 0, 0, 12],
    // Loads are in network order, nlmsg_pid is in that of the CPU. The last instruction drops, the one before keeps.
    ...ports.map((port, at): [number, number, number, number] => [0x15, ports.length - at, 0, swap(port)]),
    [0x06, 0, 0, 0xffff_ffff],
    [0x06, 0, 0, 0],
  ];
  const arena = new Arena(16 + code.length * 8);
  const program = arena.reserve(16);
  const instructions = arena.reserve(code.length * 8);
  arena.view.setUint16(program, code.length, true);
  arena.point(program + 8, instructions);
  code.forEach(([op, jt, jf, k], at) => {
    const to = instructions + at * 8;
    arena.view.setUint16(to, op, true);
    arena.view.setUint8(to + 2, jt);
    arena.view.setUint8(to + 3, jf);
    arena.view.setUint32(to + 4, k, true);
  });
  checked(
    'filter',
    'netlink notifications',
    sys(NR.setsockopt, fd, SOL_SOCKET, SO_ATTACH_FILTER, arena.from(program, 16), 16),
  );
}

function swap(word: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, word, true);
  return view.getUint32(0);
}
