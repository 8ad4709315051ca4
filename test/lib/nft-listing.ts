/** Rules as nft(8) lists them, so that two listings can be compared. */

/**
 * Chains and sets of `nft -s list ruleset` with what is in them, in an order that does not depend on the order of their
 * making.
 */
export function listingOf(text: string): string {
  return text
    .split(/\n(?=table )/)
    .flatMap((table) => {
      const [head, ...objects] = table.replace(/\n}\s*$/, '').split(/\n(?=\t\S)/);
      return objects.map((object) => `${head} ${object.replace(/elements = [^}]*/, sorted).trim()}`);
    })
    .sort()
    .join('\n');
}

/** Elements lie in the order of their hash. */
function sorted(elements: string): string {
  return elements
    .split(/[,\s]+/)
    .sort()
    .join(' ');
}
