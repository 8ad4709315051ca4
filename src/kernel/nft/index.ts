export {
  changesText,
  changeText,
  hookText,
  type NftChange,
  type NftHook,
  type NftPlace,
  type NftSetShape,
  type NftTableName,
  setOfShape,
} from './change.ts';
export { type Datum, type DatumType, typesOf } from './datum.ts';
export { type NftChainFound, type NftRuleFound, sameHook } from './dump.ts';
export type { NftSetFound } from './dump-sets.ts';
export * from './expression.ts';
export type { NftField } from './fields.ts';
export { NftGuard, type NftGuardOptions, removeNftParts, writeNftParts } from './guard.ts';
export { MASQUERADE_PORTS, masqueradeRules, sourceNatRules } from './masquerade.ts';
export {
  monitorNft,
  type NftEvent,
  type NftSubject,
  readNftEvent,
} from './monitor.ts';
export {
  emptied,
  type NftPart,
  type NftPartChain,
  type NftPartSet,
  partText,
  removal,
  sameShape,
} from './part.ts';
export { concerns, isOurs, isStrange, type NftOwner } from './renamed.ts';
export {
  ACCEPT,
  among,
  COUNTER,
  type CtState,
  ctState,
  DROP,
  equals,
  goTo,
  inCidrs,
  inSet,
  jumpTo,
  type NftRule,
  type NftStatement,
  type NftValues,
  RETURN,
  ruleOf,
} from './rule.ts';
export { areRules, ruleChanges } from './rule-changes.ts';
export { ruleText } from './rule-text.ts';
export { NftRuleset } from './ruleset.ts';
export { ruleSeal } from './seal.ts';
export { formatKey, type NftElement, type NftFamily, type NftSet, readNftElements } from './set-element.ts';
export { expressionsOf, targetsOf } from './statements.ts';
export { inSteps } from './steps.ts';
export { monitorNftTrace, type NftTraceEvent, type NftTraceHeaders, readNftTrace } from './trace.ts';
export type { NftVerdict } from './verdict.ts';
