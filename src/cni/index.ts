export { closest, readConfig } from './config.ts';
export {
  CONFLIST_NAME,
  conflist,
  type InstallOptions,
  installCni,
  PLUGIN_NAME,
  patchShim,
  uninstallCni,
} from './install.ts';
export {
  type AddRequest,
  type NetworkHealth,
  PodNetworking,
  type PodNetworkingOptions,
  type PortPublisher,
} from './network.ts';
export { mappingText } from './port-mappings.ts';
export {
  type CniAnswer,
  type CniCall,
  decodeAnswer,
  decodeCall,
  encodeAnswer,
  encodeCall,
} from './protocol.ts';
export { CniServer, type CniServerOptions } from './server.ts';
export { answerCall, resultOf } from './verbs.ts';
export { cniCode, failure } from './verdict.ts';
export { SUPPORTED_VERSIONS } from './versions.ts';
