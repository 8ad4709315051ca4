/** OpenAPI 2.0: one document for all kinds. kubectl before 1.27 validates and explains with it. */
import { documentedKinds } from '../schema/absent-kinds.ts';
import { type Dialect, definitions, gvkExtension, type Json, modelName, rootsOf } from './definitions.ts';
import { type Operation, operationsOf } from './operations.ts';

const dialect: Dialect = { version: 2, prefix: '#/definitions/' };
const jsonTypes = ['application/json', 'application/yaml'];

export function openapiV2Document(version: string): Json {
  const paths: Record<string, Json> = {};
  for (const operation of documentedKinds.flatMap(operationsOf)) {
    paths[operation.path] ??= {};
    paths[operation.path]![operation.method] = operationJson(operation);
  }
  return {
    swagger: '2.0',
    info: { title: 'Kubernetes', version },
    paths,
    definitions: { ...definitions(rootsOf(documentedKinds), dialect), [patchName]: patchDefinition },
  };
}

/** The body of a patch request is free JSON. */
export const patchName = 'io.k8s.apimachinery.pkg.apis.meta.v1.Patch';
export const patchDefinition = {
  description: 'A patch, of the form that the Content-Type names.',
  type: 'object',
};

function operationJson(operation: Operation): Json {
  const { body } = operation;
  const parameters: Json[] = operation.parameters.map((parameter) => ({
    name: parameter.name,
    in: parameter.in,
    description: parameter.description,
    type: parameter.type,
    ...(parameter.required && { required: true }),
    uniqueItems: true,
  }));
  if (body)
    parameters.push({
      name: 'body',
      in: 'body',
      ...(operation.bodyRequired && { required: true }),
      schema: { $ref: dialect.prefix + (body === 'patch' ? patchName : modelName(body)) },
    });
  return {
    description: operation.description,
    consumes: operation.consumes,
    produces: operation.action === 'list' ? [...jsonTypes, 'application/json;stream=watch'] : jsonTypes,
    schemes: ['https'],
    tags: [operation.tag],
    operationId: operation.id,
    parameters,
    responses: Object.fromEntries(
      Object.entries(operation.answers).map(([code, type]) => [
        code,
        { description: descriptions[code] ?? code, schema: { $ref: dialect.prefix + modelName(type) } },
      ]),
    ),
    'x-kubernetes-action': operation.action,
    [gvkExtension]: operation.gvk,
  };
}

export const descriptions: Readonly<Record<string, string>> = { 200: 'OK', 201: 'Created', 202: 'Accepted' };
