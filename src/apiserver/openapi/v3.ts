/** OpenAPI 3.0: one document for each group and version. kubectl from 1.27 on validates and explains with it. */
import { createHash } from 'node:crypto';
import { documentedKinds, documentedVersions } from '../schema/absent-kinds.ts';
import { groupVersionOf, type KindSchema } from '../schema/kinds.ts';
import { type Dialect, definitions, gvkExtension, type Json, modelName, rootsOf } from './definitions.ts';
import { apiPrefix, type Operation, operationsOf } from './operations.ts';
import { descriptions, patchDefinition, patchName } from './v2.ts';

const dialect: Dialect = { version: 3, prefix: '#/components/schemas/' };
const jsonTypes = ['application/json', 'application/yaml'];

export function openapiV3Document(served: readonly KindSchema[], version: string): Json {
  const paths: Record<string, Json> = {};
  for (const operation of served.flatMap(operationsOf)) {
    paths[operation.path] ??= {};
    paths[operation.path]![operation.method] = operationJson(operation);
  }
  return {
    openapi: '3.0.0',
    info: { title: 'Kubernetes', version },
    paths,
    components: {
      schemas: { ...definitions(rootsOf(served), dialect), [patchName]: patchDefinition },
    },
  };
}

/** Where each document is, with a hash so that clients may cache it for ever. */
export function openapiV3Paths(documentOf: (path: string) => string): Json {
  const paths: Json = {};
  for (const groupVersion of documentedVersions) {
    const kind = documentedKinds.find((k) => groupVersionOf(k) === groupVersion)!;
    const path = apiPrefix(kind).slice(1);
    const hash = createHash('sha512').update(documentOf(path)).digest('hex').toUpperCase();
    paths[path] = { serverRelativeURL: `/openapi/v3/${path}?hash=${hash}` };
  }
  return { paths };
}

function content(types: readonly string[], name: string): Json {
  return Object.fromEntries(types.map((type) => [type, { schema: { $ref: dialect.prefix + name } }]));
}

function operationJson(operation: Operation): Json {
  const { body } = operation;
  const produces = operation.action === 'list' ? [...jsonTypes, 'application/json;stream=watch'] : jsonTypes;
  return {
    description: operation.description,
    tags: [operation.tag],
    operationId: operation.id,
    parameters: operation.parameters.map((parameter) => ({
      name: parameter.name,
      in: parameter.in,
      description: parameter.description,
      ...(parameter.required && { required: true }),
      schema: { type: parameter.type, uniqueItems: true },
    })),
    ...(body && {
      requestBody: {
        content: content(operation.consumes, body === 'patch' ? patchName : modelName(body)),
        ...(operation.bodyRequired && { required: true }),
      },
    }),
    responses: Object.fromEntries(
      Object.entries(operation.answers).map(([code, type]) => [
        code,
        { description: descriptions[code] ?? code, content: content(produces, modelName(type)) },
      ]),
    ),
    'x-kubernetes-action': operation.action,
    [gvkExtension]: operation.gvk,
  };
}
