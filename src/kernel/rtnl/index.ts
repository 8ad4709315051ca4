export { type Addr, type AddrSpec, deleteAddr, isLone, networkOf, replaceAddr } from './addr.ts';
export { changeFailed, type NameOf, type RtnlChange } from './change.ts';
export {
  type BpfFilter,
  deleteBpfFilter,
  deleteClsact,
  ensureClsact,
  type FilterDirection,
  type FilterPlace,
  isClsact,
  type Qdisc,
  replaceBpfFilter,
} from './filter.ts';
export {
  type AddrGenMode,
  type BridgePort,
  changeBridgePort,
  changeLink,
  checkLinkName,
  createLink,
  deleteLink,
  type Link,
  type LinkSettings,
  type LinkSpec,
} from './link.ts';
export type {
  BridgeAttributes,
  BridgePortAttributes,
  TunAttributes,
  VxlanAttributes,
  VxlanOptions,
} from './link-kinds.ts';
export { type RtnlEvent, RtnlMonitor, type RtnlMonitorOptions, type RtnlTopic } from './monitor.ts';
export {
  type BridgeFdbSpec,
  deleteFdb,
  deleteNeigh,
  type Fdb,
  type FdbSpec,
  type Neigh,
  type NeighSpec,
  NUD,
  replaceBridgeFdb,
  replaceFdb,
  replaceNeigh,
  useNeigh,
} from './neigh.ts';
export {
  addRoute,
  deleteRoute,
  type Nexthop,
  type Route,
  type RouteSpec,
  type RouteType,
  RT_SCOPE,
  RT_TABLE,
  RTPROT_PORTOLAN,
  replaceRoute,
  routeText,
} from './route.ts';
export { type ChangeOutcome, Rtnl } from './rtnl.ts';
export { deleteRule, ensureRule, type Rule, type RuleSpec, ruleText } from './rule.ts';
