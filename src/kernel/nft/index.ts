export { NftGuard, type NftPart, partLooks } from './guard.ts';
export {
  monitorNft,
  type NftEvent,
  type NftSubject,
  nftGeneration,
  openNfnetlink,
  readNftEvent,
} from './monitor.ts';
export { listNftJson, type NftObject, type NftPlace, parseNftJson, runNft } from './transaction.ts';
