export * from './bytes.ts';
export * from './struct.ts';
export * from './text.ts';
