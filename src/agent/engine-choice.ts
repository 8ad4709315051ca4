/** What `--service-engine` takes; apart from the engines, so that who only asks for one loads none. */
export const SERVICE_ENGINES = ['auto', 'ebpf', 'nftables'] as const;
export type EngineChoice = (typeof SERVICE_ENGINES)[number];
