/**
 * The same text in one piece. V8 keeps a text put together of parts as a tree of them, 32 bytes a node and the parts
 * besides, for as long as it lives: not for what is kept by the ten thousand. ASCII only, for names and keys; what has
 * other characters comes back as it is.
 */
export function inOnePiece(text: string): string {
  const bytes = Buffer.from(text, 'latin1');
  const flat = bytes.toString('latin1');
  return flat === text ? flat : text;
}
