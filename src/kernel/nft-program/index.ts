/** The programs nft(8) and iptables(8), for reading other people's rules. Nothing that runs all the time needs them. */
export { listLegacyRules } from './iptables.ts';
export { listNftRules, type NftObject, parseNftJson } from './nft.ts';
