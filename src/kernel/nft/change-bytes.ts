/** Changes as messages of one nfnetlink transaction. Pure. Source: include/uapi/linux/netfilter/nf_tables.h. */
import { NLM_F, type NlRequest, type NlWriter } from '../netlink/index.ts';
import { type NftChange, type NftHook, type NftSetShape, setOfShape } from './change.ts';
import { commentBytes } from './comment.ts';
import { type DatumType, packedTypes, sizeOf } from './datum.ts';
import { BYTES_A_MESSAGE, type ElementMessage, elementMessages } from './element-messages.ts';
import { writeExpression, writeExpressions } from './expression-bytes.ts';
import { FAMILY, HOOKS, NFT, writeHeader } from './messages.ts';
import { FIELD_JOIN, type NftRule } from './rule.ts';
import { sealBytes } from './seal.ts';
import { ElementWriter, type NftSet } from './set-element.ts';
import { ANONYMOUS_NAME, type AnonymousSet, anonymousSets, expressionsOf } from './statements.ts';

/** NFT_TABLE_F_OWNER of NFTA_TABLE_FLAGS */
const TABLE_OWNER = 2;
const POLICIES = { drop: 0, accept: 1 } as const;
/** NFT_SET_*. */
const SET = {
  ANONYMOUS: 1,
  CONSTANT: 2,
  INTERVAL: 4,
  MAP: 8,
  TIMEOUT: 0x10,
  EVAL: 0x20,
  CONCAT: 0x80,
} as const;
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
  /** Of elements: which of them a refusal is about. */
  readonly part?: ElementMessage;
}

export function changeMessages(changes: readonly NftChange[]): ChangeMessage[] {
  // Numbers of sets are those of one transaction; named sets get none, for nothing refers to them by number.
  let lastSet = 0;
  const nextSet = () => ++lastSet;
  return changes.flatMap((change) => [...messagesOf(change, nextSet)]);
}

function* messagesOf(change: NftChange, nextSet: () => number): Generator<ChangeMessage> {
  const { family, table } = change;
  const one = (type: number, flags: number, write: (w: NlWriter) => void): ChangeMessage => ({
    change,
    request: {
      type,
      flags,
      write(w) {
        writeHeader(w, FAMILY[family], 0);
        w.attribute(1, () => w.string(table));
        write(w);
      },
    },
  });
  switch (change.change) {
    case 'add table':
      yield one(NFT.NEWTABLE, NLM_F.CREATE, (w) => {
        if (change.owned) w.attribute(2, () => w.u32be(TABLE_OWNER));
      });
      return;
    case 'wake table':
      yield one(NFT.NEWTABLE, NLM_F.CREATE, (w) => w.attribute(2, () => w.u32be(0)));
      return;
    case 'delete table':
      yield one(NFT.DELTABLE, 0, () => {});
      return;
    case 'add chain':
      yield one(NFT.NEWCHAIN, NLM_F.CREATE, (w) => {
        w.attribute(3, () => w.string(change.chain));
        if (change.hook) writeHook(w, change.hook);
      });
      return;
    case 'delete chain':
      yield one(NFT.DELCHAIN, 0, (w) => w.attribute(3, () => w.string(change.chain)));
      return;
    case 'flush chain':
      yield one(NFT.DELRULE, 0, (w) => w.attribute(2, () => w.string(change.chain)));
      return;
    case 'delete set':
      yield one(NFT.DELSET, 0, (w) => w.attribute(2, () => w.string(change.set.name)));
      return;
    case 'add set': {
      const number = nextSet();
      yield one(NFT.NEWSET, NLM_F.CREATE, (w) =>
        writeSet(w, setOfShape(change, change.set), change.set, { number, flags: 0 }),
      );
      return;
    }
    case 'flush elements':
      yield one(NFT.DELSETELEM, 0, (w) => w.attribute(2, () => w.string(change.set.name)));
      return;
    case 'add elements':
    case 'delete elements': {
      const set = 'family' in change.set ? change.set : setOfShape(change, change.set);
      const kind = change.change === 'add elements' ? 'add' : 'delete';
      for (const part of elementMessages({ kind, set, elements: change.elements }))
        yield { change, request: part.request, part };
      return;
    }
    case 'add rule': {
      const sets = anonymousSets(change.rule.statements).map((set) => ({ set, number: nextSet() }));
      for (const { set, number } of sets) yield* anonymousMessages(change, set, number, one);
      let used = 0;
      const { before } = change;
      // Without APPEND a rule goes before the one at its position.
      yield one(NFT.NEWRULE, NLM_F.CREATE | (before === undefined ? NLM_F.APPEND : 0), (w) => {
        w.attribute(2, () => w.string(change.chain));
        writeRule(w, change.rule, { nextNumber: () => sets[used++]!.number, sealed: change.sealed });
        if (before !== undefined) w.attribute(6, () => w.u64be(before));
      });
      return;
    }
    case 'delete rule':
      yield one(NFT.DELRULE, 0, (w) => {
        w.attribute(2, () => w.string(change.chain));
        w.attribute(3, () => w.u64be(change.handle));
      });
  }
}

function writeRule(
  w: NlWriter,
  rule: NftRule,
  { nextNumber, sealed }: { readonly nextNumber: () => number; readonly sealed: true | undefined },
): void {
  w.nest(4, () => writeExpressions(w, expressionsOf(rule, nextNumber)));
  const userdata = [
    ...(rule.comment === undefined ? [] : [commentBytes(rule.comment)]),
    ...(sealed ? [sealBytes(rule)] : []),
  ];
  if (userdata.length === 0) return;
  w.attribute(7, () => {
    for (const each of userdata) w.bytes(each);
  });
}

function writeHook(w: NlWriter, { type, hook, priority, policy }: NftHook): void {
  w.nest(4, () => {
    w.attribute(1, () => w.u32be(HOOKS[hook]));
    w.attribute(2, () => w.u32be(priority));
  });
  w.attribute(5, () => w.u32be(POLICIES[policy]));
  w.attribute(7, () => w.string(type));
}

function* anonymousMessages(
  change: NftChange,
  { key, values }: AnonymousSet,
  number: number,
  one: (type: number, flags: number, write: (w: NlWriter) => void) => ChangeMessage,
): Generator<ChangeMessage> {
  const interval = values.some(({ keyEnd }) => keyEnd !== undefined);
  // An interval of a plain set is two elements.
  const size = interval && !key.includes(FIELD_JOIN) ? undefined : values.length;
  const shape: NftSetShape = { name: ANONYMOUS_NAME, map: false, key, interval, size };
  const set = setOfShape(change, shape);
  yield one(NFT.NEWSET, NLM_F.CREATE, (w) =>
    writeSet(w, set, shape, { number, flags: SET.ANONYMOUS | SET.CONSTANT }),
  );
  const elements = (list: Uint8Array) =>
    one(NFT.NEWSETELEM, NLM_F.CREATE, (w) => {
      w.attribute(2, () => w.string(shape.name));
      w.attribute(4, () => w.u32be(number));
      w.nest(3, () => w.bytes(list));
    });
  const writer = new ElementWriter(set, 256);
  for (const value of values) {
    if (writer.length > BYTES_A_MESSAGE) yield elements(writer.take());
    writer.add(value);
  }
  yield elements(writer.take());
}

function writeSet(
  w: NlWriter,
  { name, key, data, interval, timeoutMs }: NftSet,
  { dynamic, size, counter, comment }: NftSetShape,
  { number, flags }: { readonly number: number; readonly flags: number },
): void {
  const concat = key.length > 1 && interval;
  const all =
    flags |
    (interval ? SET.INTERVAL : 0) |
    (data === undefined ? 0 : SET.MAP) |
    (timeoutMs === undefined ? 0 : SET.TIMEOUT) |
    (dynamic ? SET.EVAL : 0) |
    (concat ? SET.CONCAT : 0);
  w.attribute(2, () => w.string(name));
  w.attribute(3, () => w.u32be(all));
  w.attribute(4, () => w.u32be(packedTypes(key)));
  w.attribute(5, () => w.u32be(sizeOf(key)));
  if (data !== undefined) {
    const [type, bytes] = data === 'verdict' ? [VERDICT_TYPE, 0] : [packedTypes(data), sizeOf(data)];
    w.attribute(6, () => w.u32be(type));
    w.attribute(7, () => w.u32be(bytes));
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
  if (timeoutMs) w.attribute(11, () => w.u64be(BigInt(timeoutMs)));
  if (counter) w.nest(17, () => writeExpression(w, { name: 'counter' }));
  // Without it nft shows numbers of the host's order turned round.
  w.attribute(13, () => {
    w.u8(UDATA.KEY_BYTE_ORDER).u8(4).u32(byteOrder(key));
    if (data !== undefined)
      w.u8(UDATA.DATA_BYTE_ORDER)
        .u8(4)
        .u32(data === 'verdict' ? 0 : byteOrder(data));
    if (comment === undefined) return;
    w.bytes(commentBytes(comment, UDATA.COMMENT));
  });
}

/** BYTEORDER_* of nft's include/datatype.h; a concatenation has none of its own. */
function byteOrder(types: readonly DatumType[]): number {
  if (types.length !== 1) return 0;
  return HOST_ENDIAN_TYPES.has(types[0]!.name) ? HOST_ENDIAN : BIG_ENDIAN;
}
