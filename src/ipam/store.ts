import type { DatabaseSync, StatementSync } from 'node:sqlite';
import { type Cidr, FAMILIES, type Family, type IpAddress } from '../addr/index.ts';
import { ipamError } from '../errors/ipam.ts';
import { databaseFailure, openIpamDatabase } from './database.ts';
import { nextFree, reservedRole, usableAddresses } from './pool.ts';
import { readRecords } from './records.ts';
import {
  type Attachment,
  type AttachmentKey,
  type AttachmentRequest,
  type AttachmentState,
  attachmentKey,
  type PoolUsage,
} from './types.ts';
import { type DataSync, WalSync } from './wal-sync.ts';

export interface AttachmentStoreOptions {
  /** The database file, e.g. `/run/portolan/attachments.db`. */
  readonly path: string;
  /** Pod CIDRs of this node, at most a few; may be empty until the node has some. */
  readonly pools?: readonly Cidr[];
  /** Wall clock in ms. */
  readonly now?: () => number;
  /** How the WAL gets to the disk; tests inject failures. */
  readonly sync?: DataSync;
}

/**
 * The attachments of one node and their addresses: memory for reading, SQLite for keeping. One process holds it,
 * and JavaScript runs one call at a time, so an allocation needs no lock. A write that fails changes nothing,
 * neither on disk nor in memory.
 */
export class AttachmentStore {
  readonly path: string;
  readonly #database: DatabaseSync;
  readonly #wal: WalSync;
  readonly #now: () => number;
  readonly #attachments = new Map<string, Attachment>();
  /** Canonical text of an address → key of its holder. */
  readonly #holders = new Map<string, string>();
  readonly #hostLinks = new Map<string, string>();
  /** How many addresses that pods may have are taken, by pool; a pool that was not asked about since it is ours has no entry. */
  readonly #used = new Map<Cidr, number>();
  /** Text of a pool → the address given out last. */
  readonly #cursors = new Map<string, IpAddress>();
  readonly #listeners = new Set<() => void>();
  readonly #sql: Record<
    'begin' | 'commit' | 'insert' | 'address' | 'mapping' | 'network' | 'cursor' | 'state' | 'delete',
    StatementSync
  >;
  #pools: readonly Cidr[];
  #open = true;

  /** Opens the database and reads it. Throws IPAM_STORE_*. */
  constructor(options: AttachmentStoreOptions) {
    this.path = options.path;
    this.#pools = options.pools ?? [];
    this.#now = options.now ?? Date.now;
    const database = openIpamDatabase(options.path);
    this.#database = database;
    this.#wal = new WalSync(options.path, options.sync);
    try {
      this.#load();
      this.#sql = {
        begin: database.prepare('BEGIN IMMEDIATE'),
        commit: database.prepare('COMMIT'),
        insert: database.prepare('INSERT INTO attachments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)'),
        address: database.prepare('INSERT INTO addresses VALUES (?, ?, ?)'),
        mapping: database.prepare('INSERT INTO port_mappings VALUES (?, ?, ?, ?, ?, ?, ?)'),
        network: database.prepare('INSERT INTO networks VALUES (?, ?)'),
        cursor: database.prepare('INSERT OR REPLACE INTO cursors VALUES (?, ?)'),
        state: database.prepare('UPDATE attachments SET state = ? WHERE container_id = ? AND ifname = ?'),
        delete: database.prepare('DELETE FROM attachments WHERE container_id = ? AND ifname = ?'),
      };
    } catch (error) {
      database.close();
      throw databaseFailure(error, options.path);
    }
  }

  get pools(): readonly Cidr[] {
    return this.#pools;
  }

  /** Takes new pod CIDRs for addresses to come; attachments keep what they have until they are released. */
  setPools(pools: readonly Cidr[]): void {
    this.#pools = pools;
    this.#used.clear();
  }

  get(key: AttachmentKey): Attachment | undefined {
    return this.#attachments.get(attachmentKey(key));
  }

  byHostLink(hostLink: string): Attachment | undefined {
    const key = this.#hostLinks.get(hostLink);
    return key === undefined ? undefined : this.#attachments.get(key);
  }

  /** All attachments, oldest first. */
  list(): Attachment[] {
    return [...this.#attachments.values()];
  }

  /** Who holds an address. */
  holder(address: IpAddress): Attachment | undefined {
    const key = this.#holders.get(address.toString());
    return key === undefined ? undefined : this.#attachments.get(key);
  }

  usage(): PoolUsage[] {
    return this.#pools.map((pool) => ({ pool, used: this.#usedIn(pool), usable: usableAddresses(pool) }));
  }

  /** Throws the error that the next allocation would meet: IPAM_NO_POOL or IPAM_POOL_EXHAUSTED. */
  assertFree(): void {
    if (this.#pools.length === 0) throw ipamError('IPAM_NO_POOL', {});
    for (const family of FAMILIES)
      if (this.#pools.some((pool) => pool.family === family)) this.#choose(family);
  }

  /**
   * Takes one address of each family that has a pool and records the attachment as `pending`, in one transaction.
   * @throws IPAM_NO_POOL, IPAM_POOL_EXHAUSTED, IPAM_ADDRESS_*, IPAM_ATTACHMENT_EXISTS, IPAM_HOST_LINK_TAKEN, IPAM_STORE_*
   */
  allocate(request: AttachmentRequest): Attachment {
    const { wanted, portMappings = [], recordNetworks = false, ...rest } = request;
    const key = attachmentKey(request);
    const existing = this.#attachments.get(key);
    if (existing)
      throw ipamError('IPAM_ATTACHMENT_EXISTS', {
        containerId: request.containerId,
        ifname: request.ifname,
        addresses: existing.addresses.map(String),
      });
    if (this.#hostLinks.has(request.hostLink))
      throw ipamError('IPAM_HOST_LINK_TAKEN', {
        hostLink: request.hostLink,
        containerId: request.containerId,
      });
    const taken = this.#take(wanted ?? []);
    const attachment: Attachment = {
      ...rest,
      addresses: taken.map((each) => each.address),
      portMappings,
      networks: recordNetworks ? taken.map((each) => each.pool) : [],
      state: 'pending',
      createdAtMs: this.#now(),
    };
    this.#transaction(() => {
      this.#sql.insert.run(
        attachment.containerId,
        attachment.ifname,
        attachment.netns,
        String(attachment.netnsInode),
        attachment.pod?.namespace ?? null,
        attachment.pod?.name ?? null,
        attachment.pod?.uid ?? null,
        attachment.hostLink,
        attachment.kind,
        attachment.network,
        attachment.mtuBytes,
        attachment.state,
        attachment.createdAtMs,
      );
      for (const { address, pool, chosen } of taken) {
        this.#sql.address.run(address.toString(), attachment.containerId, attachment.ifname);
        if (recordNetworks) this.#sql.network.run(address.toString(), pool.toString());
        if (chosen) this.#sql.cursor.run(pool.toString(), address.toString());
      }
      for (const [place, { hostPort, containerPort, protocol, hostIP }] of portMappings.entries())
        this.#sql.mapping.run(
          attachment.containerId,
          attachment.ifname,
          place,
          hostPort,
          containerPort,
          protocol,
          hostIP ?? null,
        );
    });
    for (const { address, pool, chosen } of taken) if (chosen) this.#cursors.set(pool.toString(), address);
    this.#remember(attachment);
    return attachment;
  }

  /** Records that the link of an attachment is ready. Throws IPAM_STORE_*. */
  markReady(key: AttachmentKey): Attachment | undefined {
    const attachment = this.get(key);
    if (!attachment || attachment.state === 'ready') return attachment;
    const state: AttachmentState = 'ready';
    this.#transaction(() => this.#sql.state.run(state, key.containerId, key.ifname));
    const ready: Attachment = { ...attachment, state };
    this.#attachments.set(attachmentKey(key), ready);
    this.#changed();
    return ready;
  }

  /** Gives an attachment and its addresses back; returns what it was, undefined when there was none. */
  release(key: AttachmentKey): Attachment | undefined {
    const attachment = this.get(key);
    if (!attachment) return undefined;
    this.#transaction(() => this.#sql.delete.run(key.containerId, key.ifname));
    this.#attachments.delete(attachmentKey(key));
    this.#hostLinks.delete(attachment.hostLink);
    for (const address of attachment.addresses) {
      this.#holders.delete(address.toString());
      this.#count(address, -1);
    }
    this.#changed();
    return attachment;
  }

  /** Resolves when everything written before this call survives power loss. Throws IPAM_STORE_FULL, _FAILED. */
  async durable(): Promise<void> {
    this.#assertOpen();
    try {
      await this.#wal.flush();
    } catch (error) {
      throw databaseFailure(error, this.path);
    }
  }

  /** How often the disk was told to write; fewer than `durable()` calls when many come together. */
  get syncCount(): number {
    return this.#wal.count;
  }

  /** Calls back after each change of the attachments; returns the function that ends it. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await this.#wal.close();
    this.#database.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #assertOpen(): void {
    if (!this.#open) throw ipamError('IPAM_STORE_CLOSED', { path: this.path });
  }

  #transaction(work: () => void): void {
    this.#assertOpen();
    try {
      this.#sql.begin.run();
      work();
      this.#sql.commit.run();
    } catch (error) {
      // A full disk may have rolled back already (sqlite.org/lang_transaction.html, section 3).
      if (this.#database.isTransaction) this.#database.exec('ROLLBACK');
      throw databaseFailure(error, this.path);
    }
  }

  #take(wanted: readonly IpAddress[]): { address: IpAddress; pool: Cidr; chosen: boolean }[] {
    if (this.#pools.length === 0) throw ipamError('IPAM_NO_POOL', {});
    const taken = [];
    for (const family of FAMILIES) {
      const asked = wanted.filter((address) => address.family === family);
      if (asked.length > 1) throw ipamError('IPAM_TWO_ADDRESSES', { family, addresses: asked.map(String) });
      if (asked[0]) taken.push({ ...this.#checkWanted(asked[0]), chosen: false });
      else if (this.#pools.some((pool) => pool.family === family))
        taken.push({ ...this.#choose(family), chosen: true });
    }
    return taken;
  }

  #choose(family: Family): { address: IpAddress; pool: Cidr } {
    const pools = this.#pools.filter((pool) => pool.family === family);
    for (const pool of pools) {
      // Full pools are told from counts: a walk over a full /16 would take 65,536 steps at each attempt.
      if (BigInt(this.#usedIn(pool)) >= usableAddresses(pool)) continue;
      const isTaken = (address: IpAddress) => this.#holders.has(address.toString());
      const address = nextFree(pool, this.#cursors.get(pool.toString()), isTaken);
      if (address) return { address, pool };
    }
    const used = pools.reduce((sum, pool) => sum + this.#usedIn(pool), 0);
    throw ipamError('IPAM_POOL_EXHAUSTED', { pool: pools.join(', '), used });
  }

  #checkWanted(address: IpAddress): { address: IpAddress; pool: Cidr } {
    const pool = this.#pools.find((each) => each.contains(address));
    if (!pool)
      throw ipamError('IPAM_ADDRESS_OUTSIDE', {
        address: address.toString(),
        pools: this.#pools.map(String),
      });
    const role = reservedRole(pool, address);
    if (role)
      throw ipamError('IPAM_ADDRESS_RESERVED', { address: address.toString(), pool: pool.toString(), role });
    const holder = this.holder(address);
    if (holder)
      throw ipamError('IPAM_ADDRESS_TAKEN', {
        address: address.toString(),
        containerId: holder.containerId,
        ifname: holder.ifname,
      });
    return { address, pool };
  }

  #usedIn(pool: Cidr): number {
    let used = this.#used.get(pool);
    if (used === undefined) {
      used = 0;
      for (const { addresses } of this.#attachments.values())
        for (const address of addresses) if (isUsable(pool, address)) used++;
      this.#used.set(pool, used);
    }
    return used;
  }

  #count(address: IpAddress, by: 1 | -1): void {
    for (const [pool, used] of this.#used) if (isUsable(pool, address)) this.#used.set(pool, used + by);
  }

  #remember(attachment: Attachment): void {
    const key = attachmentKey(attachment);
    this.#attachments.set(key, attachment);
    this.#hostLinks.set(attachment.hostLink, key);
    for (const address of attachment.addresses) {
      this.#holders.set(address.toString(), key);
      this.#count(address, 1);
    }
    this.#changed();
  }

  #changed(): void {
    for (const listener of this.#listeners) listener();
  }

  #load(): void {
    const { attachments, cursors } = readRecords(this.#database, this.path);
    for (const attachment of attachments) this.#remember(attachment);
    for (const [pool, last] of cursors) this.#cursors.set(pool, last);
  }
}

function isUsable(pool: Cidr, address: IpAddress): boolean {
  return pool.contains(address) && reservedRole(pool, address) === undefined;
}
