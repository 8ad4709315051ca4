/**
 * Kinds that are known and always empty. Clients take them for granted: `kubectl apply --prune` without an allow
 * list looks through all of them (kubectl, pkg/util/prune/prune.go, and pkg/cmd/apply/prune.go of 1.20), and fails
 * when one is missing from discovery. So they can be listed, watched and deleted, with nothing to find; what tries
 * to make one is told what to use instead.
 */
import { groupVersionOf, type KindSchema, kind, kinds } from './kinds.ts';
import { raw } from './types/field.ts';
import { topLevel } from './types/meta.ts';

const FOR_WORKLOADS = 'create Pods instead';
const FOR_EACH_NODE = 'create a Pod for each Node instead, with its name in spec.nodeName';
const FOR_HTTP = 'create a Service of type NodePort or LoadBalancer instead';
const FOR_FILES = 'use emptyDir or hostPath volumes of a Pod instead';
const FOR_CUSTOM = 'use a ConfigMap, or keep them in a cluster that has them';
const FOR_SECRETS = 'use a ConfigMap for what is not secret';

/** `Deployments`, `Ingresses`. */
const manyOf = (name: string) => (name.endsWith('s') ? `${name}es` : `${name}s`);

function absent(
  groupVersions: readonly string[],
  name: string,
  plural: string,
  shortNames: string[],
  instead: string,
  namespaced = true,
): KindSchema[] {
  const why = `${manyOf(name)} are not served by this API server yet: ${instead}`;
  const [first] = groupVersions as [string];
  const model = first.includes('/') ? first.replace(/\..*\//, '/').replace('/', '.') : `core.${first}`;
  const part = (what: string) => raw(`The ${what}, of any form.`);
  // Fields of any form: a client that validates by itself is to reach the server's own answer.
  const fields =
    name === 'Secret'
      ? {
          data: part('data'),
          stringData: part('data as text'),
          type: part('type'),
          immutable: part('promise'),
        }
      : { spec: part('specification'), status: part('status') };
  const type = topLevel(`${model}.${name}`, `${why}.`, fields);
  // Only the first version has the short names: clients warn of a short name that has two meanings.
  return groupVersions.map((groupVersion, i) =>
    kind(groupVersion, name, plural, type, {
      shortNames: i === 0 ? shortNames : [],
      namespaced,
      absent: why,
    }),
  );
}

export const absentKinds: readonly KindSchema[] = [
  // kubectl looks here before it says that a kind does not exist.
  ...absent(
    ['apiextensions.k8s.io/v1'],
    'CustomResourceDefinition',
    'customresourcedefinitions',
    ['crd', 'crds'],
    FOR_CUSTOM,
    false,
  ),
  ...absent(['v1'], 'PersistentVolume', 'persistentvolumes', ['pv'], FOR_FILES, false),
  ...absent(['v1'], 'PersistentVolumeClaim', 'persistentvolumeclaims', ['pvc'], FOR_FILES),
  ...absent(['v1'], 'ReplicationController', 'replicationcontrollers', ['rc'], FOR_WORKLOADS),
  ...absent(['v1'], 'Secret', 'secrets', [], FOR_SECRETS),
  ...absent(['apps/v1'], 'DaemonSet', 'daemonsets', ['ds'], FOR_EACH_NODE),
  ...absent(['apps/v1'], 'Deployment', 'deployments', ['deploy'], FOR_WORKLOADS),
  ...absent(['apps/v1'], 'ReplicaSet', 'replicasets', ['rs'], FOR_WORKLOADS),
  ...absent(['apps/v1'], 'StatefulSet', 'statefulsets', ['sts'], FOR_WORKLOADS),
  // The beta versions are those that kubectl 1.20 prunes.
  ...absent(['batch/v1', 'batch/v1beta1'], 'CronJob', 'cronjobs', ['cj'], FOR_WORKLOADS),
  ...absent(['batch/v1'], 'Job', 'jobs', [], FOR_WORKLOADS),
  ...absent(['networking.k8s.io/v1', 'extensions/v1beta1'], 'Ingress', 'ingresses', ['ing'], FOR_HTTP),
];

/** Every kind that the OpenAPI documents tell of. */
export const documentedKinds: readonly KindSchema[] = [...kinds, ...absentKinds];

/** Every group and version that they tell of, as `apps/v1`. */
export const documentedVersions: readonly string[] = [...new Set(documentedKinds.map(groupVersionOf))];
