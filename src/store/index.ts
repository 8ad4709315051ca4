export { SqliteStore } from './sqlite/store.ts';
export * from './types.ts';
