/**
 * A packet flood against changes of rules: frames go as fast as one sender can from one namespace by a router to a pod
 * while rules of the router change; the pod's link counts what got through.
 *
 *     sender eth0 ── s0 router v0 ── eth0 pod 10.9.1.2
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { type IpAddress, parseIp } from '../../src/addr/index.ts';
import { createNetns, deleteNetns, type Netns } from '../../src/kernel/netns/index.ts';
import { compiled } from './soak.ts';

const ROUTER_MAC = '02:00:00:00:00:01';
const POD_MAC = '02:00:00:00:00:02';
/** Nothing in a namespace speaks IPv6 by itself then: what a link counts is the flood. */
const SYSCTLS = ['net.ipv6.conf.all.disable_ipv6=1', 'net.ipv6.conf.default.disable_ipv6=1'];
const ROUTER_SYSCTLS = [
  'net.ipv4.ip_forward=1',
  'net.ipv4.conf.all.rp_filter=0',
  'net.ipv4.conf.default.rp_filter=0',
];
/** More than is ever sent: the flood ends with the test. */
const ENDLESS = 1_000_000_000;

export interface Counted {
  readonly sent: number;
  readonly gotIn: number;
}

export interface Raced extends Counted {
  /** Changes that were made meanwhile. */
  readonly rounds: number;
}

export class NftRace {
  readonly pod: IpAddress = parseIp('10.9.1.2');
  readonly router: Netns;
  /** Of the pod. */
  readonly receiver: Netns;
  readonly #made: Netns[] = [];
  readonly #names: readonly [sender: string, router: string, pod: string];

  constructor(prefix: string) {
    const id = `${prefix}${process.pid}`;
    this.#names = [`${id}s`, `${id}r`, `${id}p`];
    const [sender, router, pod] = this.#names;
    try {
      for (const name of this.#names) {
        this.#made.push(createNetns(name));
        run('ip', 'netns', 'exec', name, 'sysctl', '-qw', ...SYSCTLS);
      }
      this.router = this.#made[1]!;
      this.receiver = this.#made[2]!;
      run('ip', 'netns', 'exec', router, 'sysctl', '-qw', ...ROUTER_SYSCTLS);
      for (const words of [
        `${router} link add s0 type veth peer name eth0 netns ${sender}`,
        `${router} link add v0 type veth peer name eth0 netns ${pod}`,
        // Without any address of its own a namespace has no table of local routes, and `fib type` takes all for broadcast.
        `${router} link set lo up`,
        `${router} link set s0 address ${ROUTER_MAC} up`,
        `${router} link set v0 up`,
        `${sender} link set eth0 up`,
        `${pod} link set eth0 address ${POD_MAC} up`,
        `${router} route add ${this.pod}/32 dev v0`,
        `${router} route add default dev s0`,
        `${router} neigh add ${this.pod} lladdr ${POD_MAC} dev v0`,
      ])
        run('ip', '-n', ...words.split(' '));
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Floods while `change` is called again and again, until the time is over or enough got in. */
  async run(options: {
    readonly forMs: number;
    /** Frames a second, and from where; default as many as possible, each from another address of 198.18.0.0/15. */
    readonly rate?: number;
    readonly source?: string;
    readonly until?: (raced: Raced) => boolean;
    readonly change: (round: number) => void;
  }): Promise<Raced> {
    const flood = this.#flood(options);
    try {
      const before = this.#count();
      while (this.#count().sent === before.sent) await sleep(5);
      let rounds = 0;
      const since = (): Raced => {
        const { sent, gotIn } = this.#count();
        return { sent: sent - before.sent, gotIn: gotIn - before.gotIn, rounds };
      };
      const end = performance.now() + options.forMs;
      do {
        for (let many = 0; many < 50; many++) options.change(rounds++);
        // So that a signal or the end of the test is heard.
        await sleep(0);
      } while (performance.now() < end && !options.until?.(since()));
      return since();
    } finally {
      const ended = once(flood, 'exit');
      flood.kill('SIGKILL');
      await ended;
    }
  }

  close(): void {
    for (const netns of this.#made.splice(0)) netns.close();
    for (const name of this.#names) deleteNetns(name);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #flood({ rate = 0, source }: { readonly rate?: number; readonly source?: string }): ChildProcess {
    const words = ['eth0', ROUTER_MAC, String(this.pod), '9000', 'udp', String(ENDLESS), String(rate)];
    if (source !== undefined) words.push(source);
    return spawn('ip', ['netns', 'exec', this.#names[0], compiled('flood'), ...words], { stdio: 'inherit' });
  }

  #count(): Counted {
    const received = (netns: string, link: string): number =>
      JSON.parse(run('ip', '-n', netns, '-s', '-j', 'link', 'show', link))[0].stats64.rx.packets;
    return { sent: received(this.#names[1], 's0'), gotIn: received(this.#names[2], 'eth0') };
  }
}

function run(command: string, ...args: readonly string[]): string {
  return execFileSync(command, args, { encoding: 'utf8' });
}
