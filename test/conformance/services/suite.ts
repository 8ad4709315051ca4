/** Runs every case over one cluster with one engine. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { affinityCases } from './affinity.ts';
import type { Case } from './case.ts';
import { ServiceCluster } from './cluster.ts';
import { clusterIpCases } from './cluster-ip.ts';
import { endpointCases } from './endpoints.ts';
import type { EngineUnderTest } from './engine.ts';
import { flowCases } from './flows.ts';
import { hostPortCases } from './host-port.ts';
import { kindCases } from './kinds.ts';
import { policyCases } from './policies.ts';

export const CASES: readonly Case[] = [
  ...clusterIpCases,
  ...kindCases,
  ...policyCases,
  ...endpointCases,
  ...affinityCases,
  ...flowCases,
  ...hostPortCases,
];

/**
 * The conformance suite. `PORTOLAN_CASES=services-003,loopback` runs those whose ids or titles contain one of the
 * words.
 */
export function serviceConformance(engine: EngineUnderTest): void {
  const wanted = process.env['PORTOLAN_CASES']?.split(',');
  const cases = CASES.filter(
    ({ ids, title }) => !wanted || wanted.some((word) => ids.includes(word) || title.includes(word)),
  );
  if (cases.length === 0) throw new Error(`no case has ${wanted}`);
  describe(`Services by ${engine.name}`, () => {
    let cluster: ServiceCluster;
    before(async () => {
      cluster = await ServiceCluster.create(engine);
    });
    after(() => cluster?.[Symbol.asyncDispose]());
    for (const { ids, title, run } of cases) {
      const why = ids.map((id) => engine.cannot[id]).find((reason) => reason !== undefined);
      test(`${ids.join(' ')}: ${title}${why === undefined ? '' : ` (can't: ${why})`}`, async () => {
        try {
          if (why === undefined) await run(cluster);
          else await assert.rejects(run(cluster), `this engine says it can't, but it can: ${why}`);
        } finally {
          await cluster.clear();
        }
      });
    }
  });
}
