/** The finalize subresource of a namespace: the only way to change spec.finalizers. */
import type { Namespace } from '../../model/kubernetes.ts';
import { parseObjectBody } from '../http/body.ts';
import { type ApiResponse, textResponse } from '../http/response.ts';
import type { WriteContext } from './write.ts';

export async function finalizeNamespace(context: WriteContext): Promise<ApiResponse> {
  const { registry, resource, path, request, presenter } = context;
  const body = parseObjectBody(request.body, request.headers['content-type']) as Namespace | null;
  const finalizers = (body?.spec?.finalizers ?? []).filter((name) => typeof name === 'string');
  const written = await registry.update(
    resource,
    undefined,
    path.name!,
    (current) => {
      const namespace = current as Namespace;
      namespace.spec = finalizers.length > 0 ? { finalizers } : {};
      return { next: namespace };
    },
    { subresource: 'finalize' },
  );
  return textResponse(200, presenter.one(written.entry!), presenter.contentType);
}
