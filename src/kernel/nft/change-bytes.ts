/** Changes as messages of one nfnetlink transaction. Pure. Source: include/uapi/linux/netfilter/nf_tables.h. */
import { NLM_F, type NlRequest, type NlWriter } from '../netlink/index.ts';
import { type NftChange, type NftHook, type NftSetShape, setOfShape } from './change.ts';
import { packedTypes, sizeOf } from './datum.ts';
import { elementMessages } from './element-messages.ts';
import { type AnonymousSet, anonymousSets, writeStatements } from './expressions.ts';
import { FAMILY, HOOKS, NFT, writeHeader } from './messages.ts';
import type { NftRule } from './rule.ts';
import { ElementWriter, type NftSet } from './set-element.ts';

const POLICIES = { drop: 0, accept: 1 } as const;
/** NFT_SET_*. */
const SET = { ANONYMOUS: 1, CONSTANT: 2, INTERVAL: 4, MAP: 8, CONCAT: 0x80 } as const;
const VERDICT_TYPE = 0xffff_ff00;
/** NFTNL_UDATA_SET_*: what nft itself wants to know again when it lists a set. */
const UDATA = { KEY_BYTE_ORDER: 0, DATA_BYTE_ORDER: 1, COMMENT: 7 } as const;
const BIG_ENDIAN = 2;
const HOST_ENDIAN = 1;
const HOST_ENDIAN_TYPES = new Set(['mark', 'iface_index', 'ifname', 'ct_state', 'fib_addrtype']);

/** A message and the change that an error in it is about. */
export interface ChangeMessage {
  readonly request: NlRequest;
  readonly change: NftChange;
}

export function changeMessages(changes: readonly NftChange[]): ChangeMessage[] {
  // Numbers of sets are those of one transaction; named sets get none, for nothing refers to them by number.
  let lastSet = 0;
  const nextSet = () => ++lastSet;
  return changes.flatMap((change) => requestsOf(change, nextSet).map((request) => ({ request, change })));
}

function requestsOf(change: NftChange, nextSet: () => number): NlRequest[] {
  const { family, table } = change;
  const one = (type: number, flags: number, write: (w: NlWriter) => void): NlRequest => ({
    type,
    flags,
    write(w) {
      writeHeader(w, FAMILY[family], 0);
      w.attribute(1, () => w.string(table));
      write(w);
    },
  });
  switch (change.change) {
    case 'add table':
      return [one(NFT.NEWTABLE, NLM_F.CREATE, () => {})];
    case 'wake table':
      return [one(NFT.NEWTABLE, NLM_F.CREATE, (w) => w.attribute(2, () => w.u32be(0)))];
    case 'delete table':
      return [one(NFT.DELTABLE, 0, () => {})];
    case 'add chain':
      return [
        one(NFT.NEWCHAIN, NLM_F.CREATE, (w) => {
          w.attribute(3, () => w.string(change.chain));
          if (change.hook) writeHook(w, change.hook);
        }),
      ];
    case 'delete chain':
      return [one(NFT.DELCHAIN, 0, (w) => w.attribute(3, () => w.string(change.chain)))];
    case 'flush chain':
      return [one(NFT.DELRULE, 0, (w) => w.attribute(2, () => w.string(change.chain)))];
    case 'delete set':
      return [one(NFT.DELSET, 0, (w) => w.attribute(2, () => w.string(change.set.name)))];
    case 'add set': {
      const { set } = change;
      const number = nextSet();
      return [
        one(NFT.NEWSET, NLM_F.CREATE, (w) =>
          writeSet(w, setOfShape(change, set), { number, flags: 0, comment: set.comment, size: undefined }),
        ),
      ];
    }
    case 'add elements':
    case 'delete elements':
      return [
        ...elementMessages({
          kind: change.change === 'add elements' ? 'add' : 'delete',
          set: setOfShape(change, change.set),
          elements: change.elements,
        }),
      ].map(({ request }) => request);
    case 'add rule': {
      const sets = anonymousSets(change.rule.statements).map((set) => ({ set, number: nextSet() }));
      const requests = sets.flatMap(({ set, number }) => anonymousRequests(change, set, number, one));
      let used = 0;
      requests.push(
        one(NFT.NEWRULE, NLM_F.CREATE | NLM_F.APPEND, (w) => {
          w.attribute(2, () => w.string(change.chain));
          writeRule(w, change.rule, () => sets[used++]!.number);
        }),
      );
      return requests;
    }
  }
}

function writeRule(w: NlWriter, { statements, comment }: NftRule, nextNumber: () => number): void {
  w.nest(4, () => writeStatements(w, statements, nextNumber));
  if (comment === undefined) return;
  const text = Buffer.from(`${comment}\0`);
  // NFTNL_UDATA_RULE_COMMENT.
  w.attribute(7, () => w.u8(0).u8(text.length).bytes(text));
}

function writeHook(w: NlWriter, { type, hook, priority, policy }: NftHook): void {
  w.nest(4, () => {
    w.attribute(1, () => w.u32be(HOOKS[hook]));
    w.attribute(2, () => w.u32be(priority));
  });
  w.attribute(5, () => w.u32be(POLICIES[policy]));
  w.attribute(7, () => w.string(type));
}

function anonymousRequests(
  change: NftChange,
  { key, values }: AnonymousSet,
  number: number,
  one: (type: number, flags: number, write: (w: NlWriter) => void) => NlRequest,
): NlRequest[] {
  const interval = values.some(({ keyEnd }) => keyEnd !== undefined);
  const shape: NftSetShape = { name: '__set%d', map: false, key, interval };
  const set = setOfShape(change, shape);
  const writer = new ElementWriter(set, 256);
  for (const value of values) writer.add(value);
  const list = writer.take();
  return [
    one(NFT.NEWSET, NLM_F.CREATE, (w) =>
      writeSet(w, set, {
        number,
        flags: SET.ANONYMOUS | SET.CONSTANT,
        comment: undefined,
        // An interval of a plain set is two elements.
        size: interval && set.key.length === 1 ? undefined : values.length,
      }),
    ),
    one(NFT.NEWSETELEM, NLM_F.CREATE, (w) => {
      w.attribute(2, () => w.string(shape.name));
      w.attribute(4, () => w.u32be(number));
      w.nest(3, () => w.bytes(list));
    }),
  ];
}

function writeSet(
  w: NlWriter,
  { name, key, data, interval }: NftSet,
  {
    number,
    flags,
    comment,
    size,
  }: {
    readonly number: number;
    readonly flags: number;
    readonly comment: string | undefined;
    readonly size: number | undefined;
  },
): void {
  const concat = key.length > 1 && interval;
  w.attribute(2, () => w.string(name));
  w.attribute(3, () =>
    w.u32be(
      flags | (interval ? SET.INTERVAL : 0) | (data === undefined ? 0 : SET.MAP) | (concat ? SET.CONCAT : 0),
    ),
  );
  w.attribute(4, () => w.u32be(packedTypes(key)));
  w.attribute(5, () => w.u32be(sizeOf(key)));
  if (data !== undefined) {
    w.attribute(6, () => w.u32be(VERDICT_TYPE));
    w.attribute(7, () => w.u32be(0));
  }
  w.attribute(10, () => w.u32be(number));
  if (size !== undefined || concat)
    w.nest(9, () => {
      if (size !== undefined) w.attribute(1, () => w.u32be(size));
      if (concat)
        w.nest(2, () => {
          for (const part of key) w.nest(1, () => w.attribute(1, () => w.u32be(part.size)));
        });
    });
  w.attribute(13, () => {
    const order = key.length > 1 ? 0 : HOST_ENDIAN_TYPES.has(key[0]!.name) ? HOST_ENDIAN : BIG_ENDIAN;
    w.u8(UDATA.KEY_BYTE_ORDER).u8(4).u32(order);
    if (data !== undefined) w.u8(UDATA.DATA_BYTE_ORDER).u8(4).u32(0);
    if (comment === undefined) return;
    const text = Buffer.from(`${comment}\0`);
    w.u8(UDATA.COMMENT).u8(text.length).bytes(text);
  });
}
