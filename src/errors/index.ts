export * from './kernel.ts';
export * from './net-error.ts';
export * from './store.ts';
