/**
 * Watches: a list that goes on. Each event is one line of JSON.
 *
 * A client that reads too slowly is cut off rather than remembered: it resumes from its last revision, which the
 * store still has, so the server needs no queue of its own.
 */
import { randomInt } from 'node:crypto';
import { apiError } from '../../errors/api.ts';
import { isNetError } from '../../errors/net-error.ts';
import type { StoreEntry, StoreEvent } from '../../store/types.ts';
import { flag, wholeNumber } from '../http/request.ts';
import type { ApiResponse, StreamSink } from '../http/response.ts';
import type { Resource } from '../resources.ts';
import { failureStatus } from '../status.ts';
import { type EntryMatch, listOptionsInvalid, revisionOf, selectionOf } from './list.ts';
import type { Presenter } from './present.ts';
import type { Source } from './source.ts';

const BOOKMARK_INTERVAL_MS = 60_000;
/** Watches without timeoutSeconds end after 30 to 60 minutes, as in Kubernetes (--min-request-timeout 1800). */
const MIN_TIMEOUT_SECONDS = 1800;
/** Timers of Node end at 2^31 ms. */
const MAX_TIMEOUT_SECONDS = 86_400;

export interface WatchOptions {
  readonly resource: Resource;
  readonly source: Source;
  readonly namespace: string | undefined;
  readonly query: URLSearchParams;
  readonly presenter: Presenter;
  readonly bookmarkIntervalMs?: number;
}

/** What an event means to a client that sees only the matching objects; undefined when nothing. */
function typeFor(
  event: StoreEvent,
  matches: EntryMatch | undefined,
): 'ADDED' | 'MODIFIED' | 'DELETED' | undefined {
  const before = event.previous !== undefined && (!matches || matches(event.previous));
  if (event.type === 'delete') return before ? 'DELETED' : undefined;
  const after = !matches || matches(event.entry);
  if (after) return before ? 'MODIFIED' : 'ADDED';
  return before ? 'DELETED' : undefined;
}

/** @throws API_BAD_REQUEST, API_INVALID before the stream starts; later failures are ERROR events in it */
export function watchResponse(options: WatchOptions): ApiResponse {
  const { resource, source, namespace, query, presenter } = options;
  const { matches } = selectionOf(resource, query);
  const revision = revisionOf(query);
  const timeoutSeconds =
    wholeNumber(query, 'timeoutSeconds') || MIN_TIMEOUT_SECONDS + randomInt(MIN_TIMEOUT_SECONDS);
  const bookmarks = flag(query, 'allowWatchBookmarks');
  const sendInitial = query.get('sendInitialEvents');
  const match = query.get('resourceVersionMatch') ?? '';
  if (sendInitial !== null && match !== 'NotOlderThan')
    throw listOptionsInvalid(
      'resourceVersionMatch',
      'FieldValueForbidden',
      'Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan',
    );
  if (sendInitial === null && match !== '')
    throw listOptionsInvalid(
      'resourceVersionMatch',
      'FieldValueForbidden',
      'Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided',
    );
  const initial = sendInitial === null ? revision === 0 : flag(query, 'sendInitialEvents');

  const stream = (sink: StreamSink) => {
    let headers = true;
    const send = (type: string, entry: StoreEntry) => {
      const fits = sink.write(`{"type":"${type}","object":${presenter.one(entry, headers)}}\n`);
      headers = false;
      return fits;
    };
    const bookmark = (initialEnd = false) =>
      sink.write(`{"type":"BOOKMARK","object":${presenter.bookmark(source.revision, initialEnd)}}\n`);
    const fail = (error: unknown) => {
      sink.write(`{"type":"ERROR","object":${JSON.stringify(failureStatus(error))}}\n`);
      sink.end();
    };
    let from = revision;
    if (initial) {
      if (revision > source.revision) {
        fail(apiError('API_FUTURE_REVISION', { wanted: revision, current: source.revision }));
        return;
      }
      from = source.revision;
      for (const entry of source.range(namespace)) {
        if (matches && !matches(entry)) continue;
        if (!send('ADDED', entry)) return;
      }
      if (bookmarks && sendInitial !== null) bookmark(true);
    } else if (sendInitial !== null && revision === 0) from = source.revision;
    const onEvents = (events: readonly StoreEvent[]) => {
      for (const event of events) {
        const type = typeFor(event, matches);
        if (type !== undefined && !send(type, event.entry)) return;
      }
    };
    try {
      const watch = source.watch(namespace, from, onEvents);
      const timers: NodeJS.Timeout[] = [];
      const stop = () => {
        watch.close();
        for (const timer of timers) clearTimeout(timer);
      };
      sink.signal.addEventListener('abort', stop, { once: true });
      if (sink.signal.aborted) {
        watch.close();
        return;
      }
      if (bookmarks) timers.push(setInterval(bookmark, options.bookmarkIntervalMs ?? BOOKMARK_INTERVAL_MS));
      timers.push(
        setTimeout(() => {
          // So that the client's next watch starts where this one ended.
          if (bookmarks) bookmark();
          // The connection stays for as long as its client takes to read the rest; nothing may follow the end.
          stop();
          sink.end();
        }, Math.min(timeoutSeconds, MAX_TIMEOUT_SECONDS) * 1000),
      );
    } catch (error) {
      // A revision from the future belongs to a store that is gone: 410 makes clients list again.
      if (isNetError(error, 'STORE_COMPACTED') || isNetError(error, 'STORE_FUTURE')) {
        const known = isNetError(error, 'STORE_COMPACTED')
          ? error.context['compacted']
          : error.context['current'];
        fail(apiError('API_EXPIRED', { message: `too old resource version: ${from} (${known})` }));
      } else fail(error);
    }
  };
  return { status: 200, headers: { 'content-type': presenter.contentType }, stream };
}
