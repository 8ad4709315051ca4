import type { KubeObject } from '../../model/kubernetes.ts';

export interface Column {
  readonly name: string;
  readonly type: 'string' | 'integer';
  readonly format: string;
  readonly description: string;
  /** 0 always shown, 1 with `-o wide`. */
  readonly priority: number;
}

export type Cell = string | number;

export interface KindTable {
  readonly columns: readonly Column[];
  readonly cells: (object: KubeObject, now: Date) => Cell[];
}

/** `Name` becomes a name column, `+Name` one of `-o wide`, `#Name` a number. */
export function columnList(...names: string[]): Column[] {
  return names.map((marked) => {
    const name = marked.replace(/^[+#]+/, '');
    return {
      name,
      type: marked.includes('#') ? 'integer' : 'string',
      format: name === 'Name' && !marked.startsWith('+') ? 'name' : '',
      description: descriptions[name] ?? '',
      priority: marked.startsWith('+') ? 1 : 0,
    };
  });
}

const descriptions: Readonly<Record<string, string>> = {
  Name: 'Name must be unique within a namespace.',
  Age: 'Time since the object was created.',
  Status: 'The state of the object.',
};
