/** Volumes of a pod. */

import { objectFieldSelector, resourceFieldSelector } from './container.ts';
import {
  bool,
  dflt,
  type Field,
  int32,
  int64,
  list,
  obj,
  ptr,
  quantities,
  quantity,
  req,
  str,
  stringMap,
  strings,
  struct,
} from './field.ts';
import { labelSelector, objectMeta } from './meta.ts';

export const localObjectReference = struct(
  'core.v1.LocalObjectReference',
  'Names an object of the same namespace.',
  { name: dflt('', str('Name of the object.')) },
  { atomic: true },
);
const fsType = str('File system of the volume; ext4 if unset.');
const readOnly = bool('True mounts it read-only.');
const mode = (what: string) => ptr(int32(`Mode of ${what}, 0 to 0777.`));
const secretRef = (what: string) => ptr(obj(() => localObjectReference, `Secret with ${what}.`));

const keyToPath = struct('core.v1.KeyToPath', 'Maps a key to a file.', {
  key: req(str('The key.')),
  path: req(str('Path of the file, relative, without "..".')),
  mode: mode('the file'),
});
const items = list(() => keyToPath, {}, 'Keys that become files; all if empty.');
const optional = (what: string) => ptr(bool(`True lets the ${what} be absent.`));

const emptyDir = struct('core.v1.EmptyDirVolumeSource', 'A directory that lives as long as the pod.', {
  medium: str('Memory for tmpfs, empty for the disk.'),
  sizeLimit: ptr(quantity('Size at most.')),
});
const hostPath = struct('core.v1.HostPathVolumeSource', 'A path of the node.', {
  path: req(str('The path.')),
  type: ptr(str('What must be there, e.g. Directory or FileOrCreate.')),
});
const configMapVolume = struct('core.v1.ConfigMapVolumeSource', 'Files from a ConfigMap.', {
  name: dflt('', str('Name of the ConfigMap.')),
  items,
  defaultMode: mode('the files; 0644 if unset'),
  optional: optional('ConfigMap'),
});
const secretVolume = struct('core.v1.SecretVolumeSource', 'Files from a Secret.', {
  secretName: str('Name of the Secret.'),
  items,
  defaultMode: mode('the files; 0644 if unset'),
  optional: optional('Secret'),
});
const downwardFile = struct('core.v1.DownwardAPIVolumeFile', 'A file with data about the pod.', {
  path: req(str('Path of the file, relative, without "..".')),
  fieldRef: ptr(obj(() => objectFieldSelector, 'A field of the pod.')),
  resourceFieldRef: ptr(obj(() => resourceFieldSelector, 'A resource of a container.')),
  mode: mode('the file'),
});
const downwardItems = list(() => downwardFile, {}, 'The files.');
const downwardVolume = struct('core.v1.DownwardAPIVolumeSource', 'Files with data about the pod.', {
  items: downwardItems,
  defaultMode: mode('the files; 0644 if unset'),
});
const claimVolume = struct('core.v1.PersistentVolumeClaimVolumeSource', 'Storage that was claimed.', {
  claimName: req(str('Name of the claim.')),
  readOnly,
});

const projection = (name: string, what: string) =>
  struct(name, `Files from a ${what}.`, {
    name: dflt('', str(`Name of the ${what}.`)),
    items,
    optional: optional(what),
  });
const secretProjection = projection('core.v1.SecretProjection', 'Secret');
const configMapProjection = projection('core.v1.ConfigMapProjection', 'ConfigMap');
const downwardProjection = struct('core.v1.DownwardAPIProjection', 'Files with data about the pod.', {
  items: downwardItems,
});
const tokenProjection = struct('core.v1.ServiceAccountTokenProjection', 'A service account token.', {
  audience: str('Who should accept the token.'),
  expirationSeconds: ptr(int64('Life of the token in seconds, 600 at least; 3600 if unset.')),
  path: req(str('Path of the file.')),
});
const trustBundleProjection = struct('core.v1.ClusterTrustBundleProjection', 'Trusted certificates.', {
  name: ptr(str('Name of the bundle.')),
  signerName: ptr(str('Signer whose bundles are taken.')),
  labelSelector: ptr(obj(() => labelSelector, 'Which bundles of the signer.')),
  optional: optional('bundle'),
  path: req(str('Path of the file.')),
});
const volumeProjection = struct('core.v1.VolumeProjection', 'One source of a projected volume.', {
  secret: ptr(obj(() => secretProjection, 'Files from a Secret.')),
  downwardAPI: ptr(obj(() => downwardProjection, 'Files with data about the pod.')),
  configMap: ptr(obj(() => configMapProjection, 'Files from a ConfigMap.')),
  serviceAccountToken: ptr(obj(() => tokenProjection, 'A service account token.')),
  clusterTrustBundle: ptr(obj(() => trustBundleProjection, 'Trusted certificates.')),
});
const projectedVolume = struct('core.v1.ProjectedVolumeSource', 'Files from several sources.', {
  sources: list(() => volumeProjection, {}, 'The sources.'),
  defaultMode: mode('the files; 0644 if unset'),
});

const csiVolume = struct('core.v1.CSIVolumeSource', 'Storage from a CSI driver.', {
  driver: req(str('Name of the driver.')),
  readOnly: ptr(readOnly),
  fsType: ptr(fsType),
  volumeAttributes: stringMap('Settings for the driver.'),
  nodePublishSecretRef: secretRef('credentials for the driver'),
});
const typedLocalObjectReference = struct(
  'core.v1.TypedLocalObjectReference',
  'Names an object of some kind in the same namespace.',
  {
    apiGroup: ptr(str('Group; core if unset.')),
    kind: req(str('Kind.')),
    name: req(str('Name.')),
  },
  { atomic: true },
);
const typedObjectReference = struct('core.v1.TypedObjectReference', 'Names an object of some kind.', {
  apiGroup: ptr(str('Group; core if unset.')),
  kind: req(str('Kind.')),
  name: req(str('Name.')),
  namespace: ptr(str('Namespace; the same if unset.')),
});
const volumeResources = struct('core.v1.VolumeResourceRequirements', 'Size of a claim.', {
  limits: quantities('At most.'),
  requests: quantities('At least.'),
});
const claimSpec = struct('core.v1.PersistentVolumeClaimSpec', 'What storage is claimed.', {
  accessModes: strings('ReadWriteOnce, ReadOnlyMany, ReadWriteMany, ReadWriteOncePod.'),
  selector: ptr(obj(() => labelSelector, 'Which volumes may be used.')),
  resources: obj(() => volumeResources, 'Size.'),
  volumeName: str('Volume that is bound.'),
  storageClassName: ptr(str('Storage class.')),
  volumeMode: ptr(str('Filesystem or Block.')),
  dataSource: ptr(obj(() => typedLocalObjectReference, 'Snapshot or claim to copy.')),
  dataSourceRef: ptr(obj(() => typedObjectReference, 'Object to fill the volume from.')),
  volumeAttributesClassName: ptr(str('Class of volume attributes.')),
});
const claimTemplate = struct('core.v1.PersistentVolumeClaimTemplate', 'A claim made with the pod.', {
  metadata: obj(() => objectMeta, 'Labels and annotations of the claim.'),
  spec: req(obj(() => claimSpec, 'What storage is claimed.')),
});
const ephemeralVolume = struct('core.v1.EphemeralVolumeSource', 'Storage claimed with the pod.', {
  volumeClaimTemplate: ptr(obj(() => claimTemplate, 'The claim.')),
});
const imageVolume = struct('core.v1.ImageVolumeSource', 'An image as a read-only volume.', {
  reference: str('Image to mount.'),
  pullPolicy: str('Always, Never or IfNotPresent.'),
});
const nfs = struct('core.v1.NFSVolumeSource', 'An NFS export.', {
  server: req(str('Server.')),
  path: req(str('Path on the server.')),
  readOnly,
});
const iscsi = struct('core.v1.ISCSIVolumeSource', 'An iSCSI disk.', {
  targetPortal: req(str('Address of the target.')),
  iqn: req(str('Name of the target.')),
  lun: req(int32('Number of the disk.')),
  iscsiInterface: dflt('default', str('Interface; default if unset.')),
  fsType,
  readOnly,
  portals: strings('Further addresses.'),
  chapAuthDiscovery: bool('CHAP for discovery.'),
  chapAuthSession: bool('CHAP for the session.'),
  secretRef: secretRef('CHAP credentials'),
  initiatorName: ptr(str('Name of the initiator.')),
});
const fibreChannel = struct('core.v1.FCVolumeSource', 'A Fibre Channel disk.', {
  targetWWNs: strings('Names of the targets.'),
  lun: ptr(int32('Number of the disk.')),
  fsType,
  readOnly,
  wwids: strings('Identities of the disk.'),
});
const cephfs = struct('core.v1.CephFSVolumeSource', 'A Ceph file system.', {
  monitors: req(strings('Monitors.')),
  path: str('Path; / if unset.'),
  user: str('User; admin if unset.'),
  secretFile: str('File with the key.'),
  secretRef: secretRef('the key'),
  readOnly,
});
const rbd = struct('core.v1.RBDVolumeSource', 'A Ceph block device.', {
  monitors: req(strings('Monitors.')),
  image: req(str('Image.')),
  fsType,
  pool: dflt('rbd', str('Pool; rbd if unset.')),
  user: dflt('admin', str('User; admin if unset.')),
  keyring: dflt('/etc/ceph/keyring', str('File with the key.')),
  secretRef: secretRef('the key'),
  readOnly,
});
const glusterfs = struct('core.v1.GlusterfsVolumeSource', 'A Gluster volume.', {
  endpoints: req(str('Endpoints object.')),
  path: req(str('Volume.')),
  readOnly,
});
const awsDisk = struct('core.v1.AWSElasticBlockStoreVolumeSource', 'An AWS disk.', {
  volumeID: req(str('Identity of the disk.')),
  fsType,
  partition: int32('Partition.'),
  readOnly,
});
const gceDisk = struct('core.v1.GCEPersistentDiskVolumeSource', 'A GCE disk.', {
  pdName: req(str('Name of the disk.')),
  fsType,
  partition: int32('Partition.'),
  readOnly,
});
const azureDisk = struct('core.v1.AzureDiskVolumeSource', 'An Azure disk.', {
  diskName: req(str('Name of the disk.')),
  diskURI: req(str('URI of the disk.')),
  cachingMode: ptr(str('None, ReadOnly or ReadWrite.')),
  fsType: dflt('ext4', ptr(fsType)),
  readOnly: dflt(false, ptr(readOnly)),
  kind: ptr(str('Shared, Dedicated or Managed.')),
});
const azureFile = struct('core.v1.AzureFileVolumeSource', 'An Azure file share.', {
  secretName: req(str('Secret with the account.')),
  shareName: req(str('Name of the share.')),
  readOnly,
});
const cinder = struct('core.v1.CinderVolumeSource', 'An OpenStack disk.', {
  volumeID: req(str('Identity of the disk.')),
  fsType,
  readOnly,
  secretRef: secretRef('credentials'),
});
const flex = struct('core.v1.FlexVolumeSource', 'A volume from an exec driver.', {
  driver: req(str('Name of the driver.')),
  fsType,
  secretRef: secretRef('data for the driver'),
  readOnly,
  options: stringMap('Settings for the driver.'),
});
const flocker = struct('core.v1.FlockerVolumeSource', 'A Flocker volume.', {
  datasetName: str('Name of the dataset.'),
  datasetUUID: str('UUID of the dataset.'),
});
const gitRepo = struct('core.v1.GitRepoVolumeSource', 'A git clone.', {
  repository: req(str('URL.')),
  revision: str('Commit.'),
  directory: str('Directory.'),
});
const photon = struct('core.v1.PhotonPersistentDiskVolumeSource', 'A Photon disk.', {
  pdID: req(str('Identity of the disk.')),
  fsType,
});
const portworx = struct('core.v1.PortworxVolumeSource', 'A Portworx volume.', {
  volumeID: req(str('Identity of the volume.')),
  fsType,
  readOnly,
});
const quobyte = struct('core.v1.QuobyteVolumeSource', 'A Quobyte volume.', {
  registry: req(str('Registries.')),
  volume: req(str('Volume.')),
  readOnly,
  user: str('User.'),
  group: str('Group.'),
  tenant: str('Tenant.'),
});
const scaleIO = struct('core.v1.ScaleIOVolumeSource', 'A ScaleIO volume.', {
  gateway: req(str('Gateway.')),
  system: req(str('System.')),
  secretRef: req(ptr(obj(() => localObjectReference, 'Secret with credentials.'))),
  sslEnabled: bool('Use TLS.'),
  protectionDomain: str('Protection domain.'),
  storagePool: str('Storage pool.'),
  storageMode: dflt('ThinProvisioned', str('ThickProvisioned or ThinProvisioned.')),
  volumeName: str('Volume.'),
  fsType: dflt('xfs', str('File system; xfs if unset.')),
  readOnly,
});
const storageOS = struct('core.v1.StorageOSVolumeSource', 'A StorageOS volume.', {
  volumeName: str('Volume.'),
  volumeNamespace: str('Namespace of the volume.'),
  fsType,
  readOnly,
  secretRef: secretRef('credentials'),
});
const vsphere = struct('core.v1.VsphereVirtualDiskVolumeSource', 'A vSphere disk.', {
  volumePath: req(str('Path of the disk.')),
  fsType,
  storagePolicyName: str('Storage policy.'),
  storagePolicyID: str('Identity of the storage policy.'),
});

const source = (type: () => ReturnType<typeof struct>): Field => ptr(obj(type, type().doc));

export const volume = struct('core.v1.Volume', 'Files or storage that containers may mount.', {
  name: req(str('Name, a DNS label, unique in the pod.')),
  hostPath: source(() => hostPath),
  emptyDir: source(() => emptyDir),
  gcePersistentDisk: source(() => gceDisk),
  awsElasticBlockStore: source(() => awsDisk),
  gitRepo: source(() => gitRepo),
  secret: source(() => secretVolume),
  nfs: source(() => nfs),
  iscsi: source(() => iscsi),
  glusterfs: source(() => glusterfs),
  persistentVolumeClaim: source(() => claimVolume),
  rbd: source(() => rbd),
  flexVolume: source(() => flex),
  cinder: source(() => cinder),
  cephfs: source(() => cephfs),
  flocker: source(() => flocker),
  downwardAPI: source(() => downwardVolume),
  fc: source(() => fibreChannel),
  azureFile: source(() => azureFile),
  configMap: source(() => configMapVolume),
  vsphereVolume: source(() => vsphere),
  quobyte: source(() => quobyte),
  azureDisk: source(() => azureDisk),
  photonPersistentDisk: source(() => photon),
  projected: source(() => projectedVolume),
  portworxVolume: source(() => portworx),
  scaleIO: source(() => scaleIO),
  storageos: source(() => storageOS),
  csi: source(() => csiVolume),
  ephemeral: source(() => ephemeralVolume),
  image: source(() => imageVolume),
});
