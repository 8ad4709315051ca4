/** eBPF: reading compiled objects, maps, programs, links and pins. See README.md. */
export { adoptMap, adoptProgram, linkById, mapById, mapMemoryBytes, programById } from './adopt.ts';
export { Btf, KIND } from './btf.ts';
export { type NetnsLike, pageSize, possibleCpus } from './call.ts';
export { checkLayout, type LaidMember, layoutOf } from './check-layout.ts';
export { ATTACH, LINK_TYPE, MAP_FLAG, MAP_TYPE, mapTypeName, PROG_TYPE, progTypeName } from './constants.ts';
export {
  bpfFeatures,
  type Feature,
  feature,
  type KernelNeed,
  requireFeature,
  requireNeeds,
} from './features.ts';
export { jiffiesPerSecond } from './jiffies.ts';
export { kernelBtf, kernelTypeId } from './kernel-btf.ts';
export {
  adoptLink,
  attachCgroup,
  attachNetfilter,
  attachRawTracepoint,
  attachTcx,
  attachXdp,
  BpfLink,
  type InterfaceTarget,
  type LinkInfo,
  runIterator,
  type XdpMode,
} from './link.ts';
export { BpfMap, type MapCreation, splitPerCpu } from './map.ts';
export {
  type Leaf,
  layoutOfMap,
  leavesOf,
  type MapLayout,
  openProgramBtf,
  sameLeaves,
  type Translate,
  translator,
} from './map-layout.ts';
export type { MapInfo, MapShape } from './map-shape.ts';
export { BpfObject, type LoadOptions, loadObject } from './object.ts';
export { type MapDefinition, type ObjectFile, readObjectFile } from './object-file.ts';
export { ensureBpffs, isBpffs, listPins, unpin } from './pin.ts';
export {
  BpfProgram,
  enableRunStats,
  type ProgramInfo,
  type TestResult,
  type TestRun,
} from './prog.ts';
export { RingBuffer } from './ringbuf.ts';
export { type ProgramKind, programKind } from './sections.ts';
export { type AttachedFilter, TcFilters } from './tc-filters.ts';
export { TypedMap } from './typed-map.ts';
