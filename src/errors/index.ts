export * from './kernel.ts';
export * from './net-error.ts';
