import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { parseIp, parseMac } from '../../addr/index.ts';
import {
  announcementFrames,
  answerFrame,
  probeFrame,
  type Question,
  readFrame,
  solicitedNodeGroup,
} from './frames.ts';

const mac = parseMac('02:00:00:00:00:01');
const asker = parseMac('02:00:00:00:00:02');

const question = (target: string, from: string): Question => ({
  kind: 'question',
  target: parseIp(target),
  asker: parseIp(from),
  askerMac: asker,
});

/** `who-has 00 01 ...` as tcpdump -xx shows it. */
const bytes = (hex: string) => Uint8Array.from(Buffer.from(hex.replace(/\s/g, ''), 'hex'));

test('an ARP request is understood, its answer is byte for byte that of the RFC', () => {
  const request = bytes(
    `ffffffffffff 020000000002 0806 0001 0800 06 04 0001 020000000002 ac1f0001 000000000000 ac1f00c8`,
  );
  const read = readFrame(request);
  assert.deepEqual(
    read.map((one) => `${one.kind} ${one.target}`),
    ['claim 172.31.0.1', 'question 172.31.0.200'],
  );
  assert.deepEqual(
    answerFrame(read[1] as Question, mac),
    bytes(`020000000002 020000000001 0806 0001 0800 06 04 0002 020000000001 ac1f00c8 020000000002 ac1f0001`),
  );
});

test('one that looks whether an address is free claims nothing', () => {
  const probe = bytes(
    `ffffffffffff 020000000002 0806 0001 0800 06 04 0001 020000000002 00000000 000000000000 ac1f00c8`,
  );
  assert.deepEqual(
    readFrame(probe).map((one) => `${one.kind} ${one.target}`),
    ['question 172.31.0.200'],
  );
});

test('who asks whether an address is free claims nothing, and is asked back for nothing', () => {
  assert.deepEqual(
    probeFrame(parseIp('172.31.0.200'), asker),
    bytes(`ffffffffffff 020000000002 0806 0001 0800 06 04 0001 020000000002 00000000 000000000000 ac1f00c8`),
  );
  for (const text of ['172.31.0.200', 'fd00:172:31::200'])
    assert.deepEqual(
      readFrame(probeFrame(parseIp(text), asker)).map((one) => ({ ...one, target: String(one.target) })),
      [
        {
          kind: 'question',
          target: text,
          asker: parseIp(text.includes(':') ? '::' : '0.0.0.0'),
          askerMac: asker,
        },
      ],
    );
});

test('announcements and answers are claims to whoever reads them', () => {
  for (const address of ['172.31.0.200', 'fd00:172:31::200']) {
    const target = parseIp(address);
    const from = target.family === 4 ? '172.31.0.1' : 'fd00:172:31::1';
    const frames = [...announcementFrames(target, mac), answerFrame(question(address, from), mac)];
    if (target.family === 6) frames.push(answerFrame(question(address, '::'), mac));
    for (const frame of frames)
      assert.deepEqual(
        readFrame(frame).map((one) => ({ ...one, target: String(one.target) })),
        [{ kind: 'claim', target: address, mac }],
      );
  }
  assert.equal(String(solicitedNodeGroup(parseIp('fd00::12:3456'))), 'ff02::1:ff12:3456');
});

test('a solicitation counts only with hop limit 255 and a right checksum', () => {
  const [good] = announcementFrames(parseIp('fd00::1'), mac);
  assert.equal(readFrame(good!).length, 1);
  for (const at of [21, 56, 70]) {
    const bad = good!.slice();
    bad[at] = bad[at]! ^ 1;
    assert.deepEqual(readFrame(bad), [], `byte ${at}`);
  }
});

test('any bytes are read without failing', () => {
  const frames = [
    ...announcementFrames(parseIp('10.0.0.1'), mac),
    ...announcementFrames(parseIp('fd00::1'), mac),
    new Uint8Array(60),
  ];
  fc.assert(
    fc.property(
      fc.constantFrom(...frames),
      fc.array(fc.tuple(fc.nat(100), fc.nat(255))),
      fc.nat(100),
      (frame, edits, cut) => {
        const bytes = frame.slice();
        for (const [at, value] of edits) if (at < bytes.length) bytes[at] = value;
        readFrame(bytes.subarray(0, cut));
        readFrame(bytes);
      },
    ),
  );
});
