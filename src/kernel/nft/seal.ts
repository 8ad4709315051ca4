/**
 * What tells a rule of ours from any other, also after a restart: a digest of what it was made from, in its user data
 * beside the comment. A rule cannot be changed in place, and what somebody writes anew with nft(8), which skips user data
 * of types that it does not know, has none. Pure.
 */
import { createHash } from 'node:crypto';
import { NlWriter } from '../netlink/index.ts';
import { writeExpressions } from './expression-bytes.ts';
import type { NftRule } from './rule.ts';
import { formatKey } from './set-element.ts';
import { anonymousSets, expressionsOf } from './statements.ts';

/** None of nft's own types, which begin at 0 (libnftnl, udata.h). */
const UDATA_SEAL = 0x70;
const SEAL_BYTES = 8;

const remembered = new WeakMap<NftRule, string>();

/** In hex. The same rule has the same seal, unless another version writes it with other bytes. */
export function ruleSeal(rule: NftRule): string {
  let seal = remembered.get(rule);
  if (seal === undefined) {
    const writer = new NlWriter(512);
    let sets = 0;
    writeExpressions(
      writer,
      expressionsOf(rule, () => ++sets),
    );
    const values = anonymousSets(rule.statements).map(
      ({ key, values }) => `${key}: ${values.map(formatKey).join(', ')}`,
    );
    seal = createHash('sha256')
      .update(writer.written)
      .update(JSON.stringify([values, rule.comment]))
      .digest('hex')
      .slice(0, 2 * SEAL_BYTES);
    remembered.set(rule, seal);
  }
  return seal;
}

/** As user data of the rule, behind its comment. */
export function sealBytes(rule: NftRule): Uint8Array {
  return Uint8Array.of(UDATA_SEAL, SEAL_BYTES, ...Buffer.from(ruleSeal(rule), 'hex'));
}

/** The seal in a rule's user data; undefined when it has none. */
export function readSeal(userdata: Uint8Array): string | undefined {
  for (let at = 0; at + 2 <= userdata.length; at += 2 + userdata[at + 1]!)
    if (userdata[at] === UDATA_SEAL)
      return Buffer.from(userdata.subarray(at + 2, at + 2 + userdata[at + 1]!)).toString('hex');
  return undefined;
}
