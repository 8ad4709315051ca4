/** Routes: 10,000 in batches over rtnetlink, beside `ip -batch`. */
import { execFileSync } from 'node:child_process';
import { Cidr, IpAddress } from '../../src/addr/index.ts';
import { createNetns, deleteNetns } from '../../src/kernel/netns/index.ts';
import { deleteRoute, Rtnl, replaceRoute } from '../../src/kernel/rtnl/index.ts';
import { type AreaOptions, atLeastTimes, type Figure } from './figure.ts';
import { medians } from './measure.ts';

const COUNT = 10_000;

export async function benchRoutes({ quick }: AreaOptions): Promise<Figure[]> {
  const rounds = quick ? 3 : 7;
  const name = `pt-bench-rt${process.pid}`;
  using netns = createNetns(name);
  try {
    const ip = (lines: readonly string[]) =>
      execFileSync('ip', ['-n', name, '-batch', '-'], { input: `${lines.join('\n')}\n` });
    ip([
      'link set lo up',
      'link add eth0 type veth peer name far',
      'addr add 192.0.2.1/24 dev eth0',
      'link set eth0 up',
      'link set far up',
    ]);
    using rtnl = Rtnl.open({ netns });
    const oif = rtnl.link('eth0')!.ifindex;
    const gateway = IpAddress.v4(0xc0000202);
    const cidrs = Array.from({ length: COUNT }, (_, n) =>
      Cidr.around(IpAddress.v4(0x0a000000 + (n << 8)), 24),
    );
    const apply = (changes: Parameters<Rtnl['apply']>[0]) => {
      const failed = rtnl.apply(changes).find((outcome) => outcome.error);
      if (failed) throw failed.error!;
    };
    const clear = () => apply(cidrs.map((destination) => deleteRoute({ destination, oif, gateway })));
    const add = () => apply(cidrs.map((destination) => replaceRoute({ destination, oif, gateway })));
    const addByIp = () => ip(cidrs.map((cidr) => `route replace ${cidr} via 192.0.2.2 dev eth0 proto 250`));
    const clearByIp = () => ip(cidrs.map((cidr) => `route del ${cidr} via 192.0.2.2 dev eth0 proto 250`));
    const dump = () => {
      const found = rtnl.routes().length;
      if (found < COUNT) throw new Error(`${found} routes instead of ${COUNT}`);
    };
    const dumpByIp = () =>
      JSON.parse(String(execFileSync('ip', ['-n', name, '-j', 'route'], { maxBuffer: 64 << 20 })));
    const one = replaceRoute({ destination: Cidr.around(IpAddress.v4(0x0b000000), 24), oif, gateway });
    const [adds, dumps, clears, singles, ipAdds, ipDumps, ipClears, ipSingle] = await medians(rounds, [
      add,
      dump,
      clear,
      () => {
        for (let n = 0; n < 100; n++) apply([one]);
      },
      addByIp,
      dumpByIp,
      clearByIp,
      () => ip(['route replace 11.0.0.0/24 via 192.0.2.2 dev eth0 proto 250']),
    ]);
    const beside = (name: string, value: number, by: string, other: number): Figure => ({
      name,
      value,
      unit: 'ms',
      baseline: { name: by, value: other },
    });
    const label = COUNT.toLocaleString('en');
    return [
      atLeastTimes(beside(`add ${label} routes`, adds!, 'ip -batch', ipAdds!), 3),
      beside(`delete ${label} routes`, clears!, 'ip -batch', ipClears!),
      beside(`read ${label} routes`, dumps!, 'ip -j route', ipDumps!),
      beside('replace one route', singles! / 100, 'ip route replace', ipSingle!),
    ];
  } finally {
    deleteNetns(name);
  }
}
