import type { Event, ObjectReference } from '../../model/kubernetes.ts';
import { columnList, type KindTable } from './column.ts';
import { humanDuration } from './duration.ts';

/** Fields that the two versions of Event name differently. */
interface AnyEvent extends Event {
  regarding?: ObjectReference;
  note?: string;
  deprecatedSource?: { component?: string; host?: string };
  deprecatedFirstTimestamp?: string | null;
  deprecatedLastTimestamp?: string | null;
  deprecatedCount?: number;
  reportingController?: string;
  series?: { count?: number; lastObservedTime?: string };
}

const ago = (time: string | null | undefined, now: Date) =>
  time ? humanDuration(now.getTime() - Date.parse(time)) : '<unknown>';

export const eventTable: KindTable = {
  columns: columnList(
    'Last Seen',
    'Type',
    'Reason',
    'Object',
    '+Subobject',
    '+Source',
    'Message',
    '+First Seen',
    '+#Count',
    '+Name',
  ).map((column) => (column.name === 'Name' ? { ...column, format: 'name' } : column)),
  cells: (object, now) => {
    const event = object as AnyEvent;
    const about = event.regarding ?? event.involvedObject ?? {};
    const source = event.source ?? event.deprecatedSource ?? {};
    const first = event.firstTimestamp ?? event.deprecatedFirstTimestamp ?? event.eventTime;
    const last =
      event.series?.lastObservedTime ?? event.lastTimestamp ?? event.deprecatedLastTimestamp ?? first;
    const count = event.series?.count ?? event.count ?? event.deprecatedCount ?? 1;
    const component = source.component || event.reportingComponent || event.reportingController || '';
    return [
      ago(last, now),
      event.type ?? '',
      event.reason ?? '',
      about.name ? `${(about.kind ?? '').toLowerCase()}/${about.name}` : (about.kind ?? '').toLowerCase(),
      about.fieldPath ?? '',
      source.host ? `${component}, ${source.host}` : component,
      (event.message ?? event.note ?? '').trim(),
      ago(first, now),
      count,
      event.metadata.name,
    ];
  },
};
