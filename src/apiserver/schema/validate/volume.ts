/** Rules for volumes of a pod: pkg/apis/core/validation, ValidateVolumes, v1.32. */
import { type FieldError, isObject } from '../decode.ts';
import { parseQuantity } from '../quantity.ts';
import { validateLocalPath } from './container.ts';
import { duplicate, forbidden, invalid, invalidEach, optionalOneOf, required } from './field-errors.ts';
import { dns1123Label } from './names.ts';

type Members = Record<string, unknown>;

/** Members that a source cannot do without; the others have rules of their own below or none. */
const requiredMembers: Readonly<Record<string, readonly string[]>> = {
  hostPath: ['path'],
  configMap: ['name'],
  secret: ['secretName'],
  persistentVolumeClaim: ['claimName'],
  nfs: ['server', 'path'],
  csi: ['driver'],
  ephemeral: ['volumeClaimTemplate'],
  gitRepo: ['repository'],
  iscsi: ['targetPortal', 'iqn'],
  flexVolume: ['driver'],
  azureDisk: ['diskName', 'diskURI'],
  azureFile: ['secretName', 'shareName'],
  awsElasticBlockStore: ['volumeID'],
  gcePersistentDisk: ['pdName'],
  cinder: ['volumeID'],
  image: ['reference'],
};
const hostPathTypes = [
  'BlockDevice',
  'CharDevice',
  'Directory',
  'DirectoryOrCreate',
  'File',
  'FileOrCreate',
  'Socket',
];

export function validateVolumes(at: string, volumes: readonly { name: string }[]): FieldError[] {
  const errors: FieldError[] = [];
  const names = new Set<string>();
  for (const [i, volume] of volumes.entries()) {
    const field = `${at}[${i}]`;
    if (!volume.name) errors.push(required(`${field}.name`));
    else errors.push(...invalidEach(`${field}.name`, volume.name, dns1123Label(volume.name)));
    if (volume.name && names.has(volume.name)) errors.push(duplicate(`${field}.name`, volume.name));
    names.add(volume.name);
    errors.push(...validateSource(field, volume as unknown as Members));
  }
  return errors;
}

function validateSource(at: string, volume: Members): FieldError[] {
  const sources = Object.keys(volume).filter((key) => key !== 'name' && volume[key] !== undefined);
  if (sources.length === 0) return [required(at, 'must specify a volume type')];
  const errors = sources
    .slice(1)
    .map((source) => forbidden(`${at}.${source}`, 'may not specify more than 1 volume type'));
  const name = sources[0]!;
  const source = volume[name];
  if (!isObject(source)) return errors;
  const field = `${at}.${name}`;
  for (const member of requiredMembers[name] ?? [])
    if (!source[member]) errors.push(required(`${field}.${member}`));
  errors.push(...validateMode(`${field}.defaultMode`, source['defaultMode']));
  if (Array.isArray(source['items']))
    errors.push(...validateItems(`${field}.items`, source['items'] as Members[], name));
  if (name === 'hostPath' && source['type'])
    errors.push(...optionalOneOf(`${field}.type`, source['type'], hostPathTypes));
  if (name === 'hostPath' && typeof source['path'] === 'string' && source['path'].split('/').includes('..'))
    errors.push(invalid(`${field}.path`, source['path'], "must not contain '..'"));
  const limit = name === 'emptyDir' ? parseQuantity(String(source['sizeLimit'] ?? '0')) : undefined;
  if (limit && limit.nanos < 0n)
    errors.push(forbidden(`${field}.sizeLimit`, 'SizeLimit field must be a valid resource quantity'));
  if (name === 'projected')
    for (const [i, projection] of ((source['sources'] as Members[] | undefined) ?? []).entries())
      errors.push(...validateProjection(`${field}.sources[${i}]`, projection));
  return errors;
}

function validateMode(field: string, mode: unknown): FieldError[] {
  if (typeof mode !== 'number' || (mode >= 0 && mode <= 0o777)) return [];
  return [invalid(field, mode, 'must be a number between 0 and 0777 (octal), both inclusive')];
}

function validateItems(at: string, items: readonly Members[], source: string): FieldError[] {
  return items.flatMap((item, i) => {
    const field = `${at}[${i}]`;
    const errors = validateMode(`${field}.mode`, item['mode']);
    if (source !== 'downwardAPI' && !item['key']) errors.push(required(`${field}.key`));
    const path = item['path'];
    if (typeof path !== 'string' || path === '') errors.push(required(`${field}.path`));
    else errors.push(...validateLocalPath(`${field}.path`, path));
    return errors;
  });
}

function validateProjection(at: string, projection: Members): FieldError[] {
  const sources = Object.keys(projection);
  const errors = sources
    .slice(1)
    .map((source) => forbidden(`${at}.${source}`, 'may not specify more than 1 volume type'));
  for (const name of sources) {
    const source = projection[name];
    if (!isObject(source)) continue;
    if ((name === 'configMap' || name === 'secret') && !source['name'])
      errors.push(required(`${at}.${name}.name`));
    if (name === 'serviceAccountToken' && !source['path']) errors.push(required(`${at}.${name}.path`));
    if (Array.isArray(source['items']))
      errors.push(...validateItems(`${at}.${name}.items`, source['items'] as Members[], name));
  }
  return errors;
}
