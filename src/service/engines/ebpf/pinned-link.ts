import { adoptLink, type BpfLink, type BpfProgram, type LinkInfo, unpin } from '../../../kernel/bpf/index.ts';

/**
 * The link pinned at a path gets the program, without a moment in between, when `inPlace` says that it is where it
 * should be. One that is elsewhere, or is missing, is replaced by what `attach` makes.
 */
export function putLink(
  path: string,
  program: BpfProgram,
  inPlace: (info: LinkInfo) => boolean,
  attach: () => BpfLink,
): void {
  using present = adoptLink(path);
  if (present) {
    if (inPlace(present.info())) {
      present.update(program);
      return;
    }
    unpin(path);
  }
  using link = attach();
  link.pin(path);
}
