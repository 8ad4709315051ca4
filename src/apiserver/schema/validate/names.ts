/**
 * Syntax of names, labels and the like, with Kubernetes' own wording: apimachinery `util/validation` v1.32.
 * Each check returns the faults of a value, none when it is fine.
 */
type Check = (value: string) => string[];

function regexMessage(message: string, expression: string, ...examples: string[]): string {
  const e = examples.map((example) => `'${example}'`).join(',  or ');
  return `${message} (${examples.length > 0 ? `e.g. ${e}, ` : ''}regex used for validation is '${expression}')`;
}
const maxLength = (length: number) => `must be no more than ${length} characters`;

function syntax(expression: string, length: number, message: string, ...examples: string[]): Check {
  const regex = new RegExp(`^(?:${expression})$`);
  return (value) => {
    const faults: string[] = [];
    if (value.length > length) faults.push(maxLength(length));
    if (!regex.test(value)) faults.push(regexMessage(message, expression, ...examples));
    return faults;
  };
}

const label = '[a-z0-9]([-a-z0-9]*[a-z0-9])?';
const subdomain = `${label}(\\.${label})*`;
const qualified = '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]';

export const dns1123Label = syntax(
  label,
  63,
  "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
  'my-name',
  '123-abc',
);
export const dns1123Subdomain = syntax(
  subdomain,
  253,
  "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
  'example.com',
);
export const dns1035Label = syntax(
  '[a-z]([-a-z0-9]*[a-z0-9])?',
  63,
  "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
  'my-name',
  'abc-123',
);
export const configMapKey: Check = (value) => {
  const faults = syntax(
    '[-._a-zA-Z0-9]+',
    253,
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
    'key.name',
    'KEY_NAME',
    'key-name',
  )(value);
  if (value === '.') faults.push("must not be '.'");
  else if (value === '..') faults.push("must not be '..'");
  else if (value.startsWith('..')) faults.push("must not start with '..'");
  return faults;
};
/** Since 1.30 anything printable without `=`, see relaxed environment variable validation. */
export const envVarName: Check = (value) => {
  const faults: string[] = [];
  if (value.length === 0) faults.push('environment variable name must be at least 1 character');
  if (!/^[\x20-\x3c\x3e-\x7e]*$/.test(value))
    faults.push(
      regexMessage(
        "a valid environment variable name must consist only of printable ASCII characters other than '='",
        '[ -<>-~]+',
      ),
    );
  return faults;
};

const qualifiedPart = syntax(
  qualified,
  63,
  "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
  'MyName',
  'my.name',
  '123-abc',
);

/** `example.com/name` or `name`. */
export const qualifiedName: Check = (value) => {
  const parts = value.split('/');
  const faults: string[] = [];
  if (parts.length > 2)
    return [
      `a qualified name ${regexMessage("must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character", qualified, 'MyName', 'my.name', '123-abc')} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')`,
    ];
  if (parts.length === 2) {
    const prefix = parts[0]!;
    if (prefix === '') faults.push('prefix part must be non-empty');
    else faults.push(...dns1123Subdomain(prefix).map((fault) => `prefix part ${fault}`));
  }
  const name = parts.at(-1)!;
  if (name === '') faults.push('name part must be non-empty');
  return [...faults, ...qualifiedPart(name)];
};

const labelSyntax = syntax(
  `(${qualified})?`,
  63,
  "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
  'MyValue',
  'my_value',
  '12345',
);
export const labelValue: Check = (value) =>
  value.length > 63 ? [maxLength(63)] : value === '' ? [] : labelSyntax(value);

/** Name of a container port: at most 15 characters of `[a-z0-9-]`, at least one letter. */
export const portName: Check = (value) => {
  const faults: string[] = [];
  if (value.length > 15) faults.push(maxLength(15));
  if (!/^[-a-z0-9]+$/.test(value))
    faults.push('must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)');
  if (!/[a-z]/.test(value)) faults.push('must contain at least one letter (a-z)');
  if (value.includes('--')) faults.push('must not contain consecutive hyphens');
  if (value.startsWith('-') || value.endsWith('-')) faults.push('must not begin or end with a hyphen');
  return faults;
};

export function inRange(value: number, low: number, high: number): string[] {
  return value >= low && value <= high ? [] : [`must be between ${low} and ${high}, inclusive`];
}
export const portNumber = (value: number) => inRange(value, 1, 65535);
