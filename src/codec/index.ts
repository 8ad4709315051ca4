export * from './bytes.ts';
export * from './struct.ts';
