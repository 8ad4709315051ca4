/**
 * spec.podCIDRs of Nodes may not change once they are set, as in Kubernetes, with one exception: networks that are
 * also those of an older Node, or none at all, may be replaced by free ones. The controllers do that once no pod
 * lives there; without it such a Node could only be deleted and registered again.
 */
import { type Cidr, tryParseCidr } from '../../addr/index.ts';
import type { FieldCause } from '../../errors/api.ts';
import type { Node } from '../../model/kubernetes.ts';
import type { Store } from '../../store/types.ts';
import { objectOf } from '../registry/objects.ts';
import type { Strategy } from '../registry/strategy.ts';
import { prefixOf, resourceOfKind } from '../resources.ts';

const cidrsOf = (node: Node) => node.spec?.podCIDRs ?? (node.spec?.podCIDR ? [node.spec.podCIDR] : []);
const networksOf = (node: Node) => cidrsOf(node).flatMap((text) => tryParseCidr(text) ?? []);
/** Oldest first, as the controllers judge. */
const ageOf = ({ metadata }: Node) => `${metadata.creationTimestamp} ${metadata.name}`;

/** Whether `next` may have other networks than `old`, given all other Nodes. Pure. */
export function mayReplaceNetworks(next: Node, old: Node, others: readonly Node[]): boolean {
  const overlap = (network: Cidr, nodes: readonly Node[]) =>
    nodes.some((node) => networksOf(node).some((other) => other.overlaps(network)));
  const older = others.filter((node) => ageOf(node) < ageOf(old));
  const kept = new Set(cidrsOf(next));
  const wronglyTaken = cidrsOf(old)
    .filter((text) => !kept.has(text))
    .some((text) => {
      const network = tryParseCidr(text);
      return network && !overlap(network, older);
    });
  const before = new Set(cidrsOf(old));
  const added = cidrsOf(next).filter((text) => !before.has(text));
  return !wronglyTaken && added.every((text) => !overlap(tryParseCidr(text)!, others));
}

export function nodeStrategy(store: Store): Strategy {
  return {
    admit: (object, before): FieldCause[] => {
      const next = object as Node;
      const old = before as Node | undefined;
      if (!old || cidrsOf(old).length === 0 || cidrsOf(old).join() === cidrsOf(next).join()) return [];
      const others = [...store.range(prefixOf(resourceOfKind('Node'), undefined))]
        .map((entry) => objectOf(entry) as Node)
        .filter(({ metadata }) => metadata.name !== old.metadata.name);
      if (cidrsOf(next).length > 0 && mayReplaceNetworks(next, old, others)) return [];
      return [
        {
          type: 'FieldValueForbidden',
          field: 'spec.podCIDRs',
          message: 'Forbidden: node updates may not change podCIDR except from "" to valid',
        },
      ];
    },
  };
}
