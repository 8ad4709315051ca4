export * from './addr.ts';
export * from './api-patch.ts';
export * from './agent.ts';
export * from './client.ts';
export * from './kernel.ts';
export * from './net-error.ts';
export * from './rtnl.ts';
export * from './store.ts';
