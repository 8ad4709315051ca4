export type { Datum, DatumType } from './datum.ts';
export { type ElementChange, NftElements } from './elements.ts';
export { NftGuard, type NftPart, partLooks } from './guard.ts';
export {
  monitorNft,
  type NftEvent,
  type NftSubject,
  nftGeneration,
  openNfnetlink,
  readNftEvent,
} from './monitor.ts';
export { formatKey, type NftElement, type NftFamily, type NftSet, type NftVerdict } from './set-element.ts';
export { listNftJson, type NftObject, type NftPlace, parseNftJson, runNft } from './transaction.ts';
