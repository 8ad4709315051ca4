export * from './net-error.ts';
