/**
 * Field numbers of Kubernetes' protobuf messages, for the tables of `../types`. One line a message; the place of a
 * name is its number, `_` is a number that is not used, and `...message` a member that is a message there and part
 * of the outer object in JSON.
 * Source: generated.proto of k8s.io/api v0.32 (ServiceCIDR: v0.33, EndpointHints: v0.34) and of apimachinery v0.32.
 */
const text = `
authentication.v1.SelfSubjectReview: metadata status
authentication.v1.SelfSubjectReviewStatus: userInfo
authentication.v1.UserInfo: username uid groups extra
authorization.v1.FieldSelectorAttributes: rawSelector requirements
authorization.v1.LabelSelectorAttributes: rawSelector requirements
authorization.v1.NonResourceAttributes: path verb
authorization.v1.ResourceAttributes: namespace verb group version resource subresource name fieldSelector
  labelSelector
authorization.v1.SelfSubjectAccessReview: metadata spec status
authorization.v1.SelfSubjectAccessReviewSpec: resourceAttributes nonResourceAttributes
authorization.v1.SelfSubjectRulesReview: metadata spec status
authorization.v1.SelfSubjectRulesReviewSpec: namespace
authorization.v1.SubjectAccessReviewStatus: allowed reason evaluationError denied
coordination.v1.Lease: metadata spec
coordination.v1.LeaseSpec: holderIdentity leaseDurationSeconds acquireTime renewTime leaseTransitions
  strategy preferredHolder
core.v1.AWSElasticBlockStoreVolumeSource: volumeID fsType partition readOnly
core.v1.Affinity: nodeAffinity podAffinity podAntiAffinity
core.v1.AppArmorProfile: type localhostProfile
core.v1.AttachedVolume: name devicePath
core.v1.AzureDiskVolumeSource: diskName diskURI cachingMode fsType readOnly kind
core.v1.AzureFileVolumeSource: secretName shareName readOnly
core.v1.Binding: metadata target
core.v1.CSIVolumeSource: driver readOnly fsType volumeAttributes nodePublishSecretRef
core.v1.Capabilities: add drop
core.v1.CephFSVolumeSource: monitors path user secretFile secretRef readOnly
core.v1.CinderVolumeSource: volumeID fsType readOnly secretRef
core.v1.ClientIPConfig: timeoutSeconds
core.v1.ClusterTrustBundleProjection: name signerName labelSelector path optional
core.v1.ConfigMap: metadata data binaryData immutable
core.v1.ConfigMapEnvSource: ...core.v1.LocalObjectReference optional
core.v1.ConfigMapKeySelector: ...core.v1.LocalObjectReference key optional
core.v1.ConfigMapNodeConfigSource: namespace name uid resourceVersion kubeletConfigKey
core.v1.ConfigMapProjection: ...core.v1.LocalObjectReference items _ optional
core.v1.ConfigMapVolumeSource: ...core.v1.LocalObjectReference items defaultMode optional
core.v1.Container: name image command args workingDir ports env resources volumeMounts livenessProbe
  readinessProbe lifecycle terminationMessagePath imagePullPolicy securityContext stdin stdinOnce tty
  envFrom terminationMessagePolicy volumeDevices startupProbe resizePolicy restartPolicy
core.v1.ContainerImage: names sizeBytes
core.v1.ContainerPort: name hostPort containerPort protocol hostIP
core.v1.ContainerResizePolicy: resourceName restartPolicy
core.v1.ContainerState: waiting running terminated
core.v1.ContainerStateRunning: startedAt
core.v1.ContainerStateTerminated: exitCode signal reason message startedAt finishedAt containerID
core.v1.ContainerStateWaiting: reason message
core.v1.ContainerStatus: name state lastState ready restartCount image imageID containerID started
  allocatedResources resources volumeMounts user allocatedResourcesStatus
core.v1.ContainerUser: linux
core.v1.DaemonEndpoint: Port
core.v1.DownwardAPIProjection: items
core.v1.DownwardAPIVolumeFile: path fieldRef resourceFieldRef mode
core.v1.DownwardAPIVolumeSource: items defaultMode
core.v1.EmptyDirVolumeSource: medium sizeLimit
core.v1.EndpointAddress: ip targetRef hostname nodeName
core.v1.EndpointPort: name port protocol appProtocol
core.v1.EndpointSubset: addresses notReadyAddresses ports
core.v1.Endpoints: metadata subsets
core.v1.EnvFromSource: prefix configMapRef secretRef
core.v1.EnvVar: name value valueFrom
core.v1.EnvVarSource: fieldRef resourceFieldRef configMapKeyRef secretKeyRef
core.v1.EphemeralContainer: ...core.v1.EphemeralContainerCommon targetContainerName
core.v1.EphemeralContainerCommon: name image command args workingDir ports env resources volumeMounts
  livenessProbe readinessProbe lifecycle terminationMessagePath imagePullPolicy securityContext stdin
  stdinOnce tty envFrom terminationMessagePolicy volumeDevices startupProbe resizePolicy restartPolicy
core.v1.EphemeralVolumeSource: volumeClaimTemplate
core.v1.Event: metadata involvedObject reason message source firstTimestamp lastTimestamp count type
  eventTime series action related reportingComponent reportingInstance
core.v1.EventSeries: count lastObservedTime
core.v1.EventSource: component host
core.v1.ExecAction: command
core.v1.FCVolumeSource: targetWWNs lun fsType readOnly wwids
core.v1.FlexVolumeSource: driver fsType secretRef readOnly options
core.v1.FlockerVolumeSource: datasetName datasetUUID
core.v1.GCEPersistentDiskVolumeSource: pdName fsType partition readOnly
core.v1.GRPCAction: port service
core.v1.GitRepoVolumeSource: repository revision directory
core.v1.GlusterfsVolumeSource: endpoints path readOnly
core.v1.HTTPGetAction: path port host scheme httpHeaders
core.v1.HTTPHeader: name value
core.v1.HostAlias: ip hostnames
core.v1.HostIP: ip
core.v1.HostPathVolumeSource: path type
core.v1.ISCSIVolumeSource: targetPortal iqn lun iscsiInterface fsType readOnly portals chapAuthDiscovery _
  secretRef chapAuthSession initiatorName
core.v1.ImageVolumeSource: reference pullPolicy
core.v1.KeyToPath: key path mode
core.v1.Lifecycle: postStart preStop
core.v1.LifecycleHandler: exec httpGet tcpSocket sleep
core.v1.LinuxContainerUser: uid gid supplementalGroups
core.v1.LoadBalancerIngress: ip hostname ipMode ports
core.v1.LoadBalancerStatus: ingress
core.v1.LocalObjectReference: name
core.v1.NFSVolumeSource: server path readOnly
core.v1.Namespace: metadata spec status
core.v1.NamespaceCondition: type status _ lastTransitionTime reason message
core.v1.NamespaceSpec: finalizers
core.v1.NamespaceStatus: phase conditions
core.v1.Node: metadata spec status
core.v1.NodeAddress: type address
core.v1.NodeAffinity: requiredDuringSchedulingIgnoredDuringExecution
  preferredDuringSchedulingIgnoredDuringExecution
core.v1.NodeCondition: type status lastHeartbeatTime lastTransitionTime reason message
core.v1.NodeConfigSource: _ configMap
core.v1.NodeConfigStatus: assigned active lastKnownGood error
core.v1.NodeDaemonEndpoints: kubeletEndpoint
core.v1.NodeFeatures: supplementalGroupsPolicy
core.v1.NodeRuntimeHandler: name features
core.v1.NodeRuntimeHandlerFeatures: recursiveReadOnlyMounts userNamespaces
core.v1.NodeSelector: nodeSelectorTerms
core.v1.NodeSelectorRequirement: key operator values
core.v1.NodeSelectorTerm: matchExpressions matchFields
core.v1.NodeSpec: podCIDR externalID providerID unschedulable taints configSource podCIDRs
core.v1.NodeStatus: capacity allocatable phase conditions addresses daemonEndpoints nodeInfo images
  volumesInUse volumesAttached config runtimeHandlers features
core.v1.NodeSystemInfo: machineID systemUUID bootID kernelVersion osImage containerRuntimeVersion
  kubeletVersion kubeProxyVersion operatingSystem architecture
core.v1.ObjectFieldSelector: apiVersion fieldPath
core.v1.ObjectReference: kind namespace name uid apiVersion resourceVersion fieldPath
core.v1.PersistentVolumeClaimSpec: accessModes resources volumeName selector storageClassName volumeMode
  dataSource dataSourceRef volumeAttributesClassName
core.v1.PersistentVolumeClaimTemplate: metadata spec
core.v1.PersistentVolumeClaimVolumeSource: claimName readOnly
core.v1.PhotonPersistentDiskVolumeSource: pdID fsType
core.v1.Pod: metadata spec status
core.v1.PodAffinity: requiredDuringSchedulingIgnoredDuringExecution
  preferredDuringSchedulingIgnoredDuringExecution
core.v1.PodAffinityTerm: labelSelector namespaces topologyKey namespaceSelector matchLabelKeys
  mismatchLabelKeys
core.v1.PodAntiAffinity: requiredDuringSchedulingIgnoredDuringExecution
  preferredDuringSchedulingIgnoredDuringExecution
core.v1.PodCondition: type status lastProbeTime lastTransitionTime reason message
core.v1.PodDNSConfig: nameservers searches options
core.v1.PodDNSConfigOption: name value
core.v1.PodIP: ip
core.v1.PodOS: name
core.v1.PodReadinessGate: conditionType
core.v1.PodResourceClaim: name _ resourceClaimName resourceClaimTemplateName
core.v1.PodResourceClaimStatus: name resourceClaimName
core.v1.PodSchedulingGate: name
core.v1.PodSecurityContext: seLinuxOptions runAsUser runAsNonRoot supplementalGroups fsGroup runAsGroup
  sysctls windowsOptions fsGroupChangePolicy seccompProfile appArmorProfile supplementalGroupsPolicy
  seLinuxChangePolicy
core.v1.PodSpec: volumes containers restartPolicy terminationGracePeriodSeconds activeDeadlineSeconds
  dnsPolicy nodeSelector serviceAccountName serviceAccount nodeName hostNetwork hostPID hostIPC
  securityContext imagePullSecrets hostname subdomain affinity schedulerName initContainers
  automountServiceAccountToken tolerations hostAliases priorityClassName priority dnsConfig
  shareProcessNamespace readinessGates runtimeClassName enableServiceLinks preemptionPolicy overhead
  topologySpreadConstraints ephemeralContainers setHostnameAsFQDN os hostUsers schedulingGates
  resourceClaims resources
core.v1.PodStatus: phase conditions message reason hostIP podIP startTime containerStatuses qosClass
  initContainerStatuses nominatedNodeName podIPs ephemeralContainerStatuses resize resourceClaimStatuses
  hostIPs
core.v1.PortStatus: port protocol error
core.v1.PortworxVolumeSource: volumeID fsType readOnly
core.v1.PreferredSchedulingTerm: weight preference
core.v1.Probe: ...core.v1.ProbeHandler initialDelaySeconds timeoutSeconds periodSeconds successThreshold
  failureThreshold terminationGracePeriodSeconds
core.v1.ProbeHandler: exec httpGet tcpSocket grpc
core.v1.ProjectedVolumeSource: sources defaultMode
core.v1.QuobyteVolumeSource: registry volume readOnly user group tenant
core.v1.RBDVolumeSource: monitors image fsType pool user keyring secretRef readOnly
core.v1.ResourceClaim: name request
core.v1.ResourceFieldSelector: containerName resource divisor
core.v1.ResourceHealth: resourceID health
core.v1.ResourceRequirements: limits requests claims
core.v1.ResourceStatus: name resources
core.v1.SELinuxOptions: user role type level
core.v1.ScaleIOVolumeSource: gateway system secretRef sslEnabled protectionDomain storagePool storageMode
  volumeName fsType readOnly
core.v1.SeccompProfile: type localhostProfile
core.v1.SecretEnvSource: ...core.v1.LocalObjectReference optional
core.v1.SecretKeySelector: ...core.v1.LocalObjectReference key optional
core.v1.SecretProjection: ...core.v1.LocalObjectReference items _ optional
core.v1.SecretVolumeSource: secretName items defaultMode optional
core.v1.SecurityContext: capabilities privileged seLinuxOptions runAsUser runAsNonRoot
  readOnlyRootFilesystem allowPrivilegeEscalation runAsGroup procMount windowsOptions seccompProfile
  appArmorProfile
core.v1.Service: metadata spec status
core.v1.ServiceAccountTokenProjection: audience expirationSeconds path
core.v1.ServicePort: name protocol port targetPort nodePort appProtocol
core.v1.ServiceSpec: ports selector clusterIP type externalIPs _ sessionAffinity loadBalancerIP
  loadBalancerSourceRanges externalName externalTrafficPolicy healthCheckNodePort publishNotReadyAddresses
  sessionAffinityConfig _ _ ipFamilyPolicy clusterIPs ipFamilies allocateLoadBalancerNodePorts
  loadBalancerClass internalTrafficPolicy trafficDistribution
core.v1.ServiceStatus: loadBalancer conditions
core.v1.SessionAffinityConfig: clientIP
core.v1.SleepAction: seconds
core.v1.StorageOSVolumeSource: volumeName volumeNamespace fsType readOnly secretRef
core.v1.Sysctl: name value
core.v1.TCPSocketAction: port host
core.v1.Taint: key value effect timeAdded
core.v1.Toleration: key operator value effect tolerationSeconds
core.v1.TopologySpreadConstraint: maxSkew topologyKey whenUnsatisfiable labelSelector minDomains
  nodeAffinityPolicy nodeTaintsPolicy matchLabelKeys
core.v1.TypedLocalObjectReference: apiGroup kind name
core.v1.TypedObjectReference: apiGroup kind name namespace
core.v1.Volume: name ...core.v1.VolumeSource
core.v1.VolumeDevice: name devicePath
core.v1.VolumeMount: name readOnly mountPath subPath mountPropagation subPathExpr recursiveReadOnly
core.v1.VolumeMountStatus: name mountPath readOnly recursiveReadOnly
core.v1.VolumeProjection: secret downwardAPI configMap serviceAccountToken clusterTrustBundle
core.v1.VolumeResourceRequirements: limits requests
core.v1.VolumeSource: hostPath emptyDir gcePersistentDisk awsElasticBlockStore gitRepo secret nfs iscsi
  glusterfs persistentVolumeClaim rbd flexVolume cinder cephfs flocker downwardAPI fc azureFile configMap
  vsphereVolume quobyte azureDisk photonPersistentDisk portworxVolume scaleIO projected storageos csi
  ephemeral image
core.v1.VsphereVirtualDiskVolumeSource: volumePath fsType storagePolicyName storagePolicyID
core.v1.WeightedPodAffinityTerm: weight podAffinityTerm
core.v1.WindowsSecurityContextOptions: gmsaCredentialSpecName gmsaCredentialSpec runAsUserName hostProcess
discovery.v1.Endpoint: addresses conditions hostname targetRef deprecatedTopology nodeName zone hints
discovery.v1.EndpointConditions: ready serving terminating
discovery.v1.EndpointHints: forZones forNodes
discovery.v1.EndpointPort: name protocol port appProtocol
discovery.v1.EndpointSlice: metadata endpoints ports addressType
discovery.v1.ForNode: name
discovery.v1.ForZone: name
discovery.v1beta1.Endpoint: addresses conditions hostname targetRef topology nodeName hints
discovery.v1beta1.EndpointSlice: metadata endpoints ports addressType
events.v1.Event: metadata eventTime series reportingController reportingInstance action reason regarding
  related note type deprecatedSource deprecatedFirstTimestamp deprecatedLastTimestamp deprecatedCount
events.v1.EventSeries: count lastObservedTime
networking.v1.IPBlock: cidr except
networking.v1.NetworkPolicy: metadata spec
networking.v1.NetworkPolicyEgressRule: ports to
networking.v1.NetworkPolicyIngressRule: ports from
networking.v1.NetworkPolicyPeer: podSelector namespaceSelector ipBlock
networking.v1.NetworkPolicyPort: protocol port endPort
networking.v1.NetworkPolicySpec: podSelector ingress egress policyTypes
networking.v1.ServiceCIDR: metadata spec status
networking.v1.ServiceCIDRSpec: cidrs
networking.v1.ServiceCIDRStatus: conditions
policy.v1.Eviction: metadata deleteOptions
meta.v1.Condition: type status observedGeneration lastTransitionTime reason message
meta.v1.DeleteOptions: gracePeriodSeconds preconditions orphanDependents propagationPolicy dryRun
  ignoreStoreReadErrorWithClusterBreakingPotential
meta.v1.FieldSelectorRequirement: key operator values
meta.v1.LabelSelector: matchLabels matchExpressions
meta.v1.LabelSelectorRequirement: key operator values
meta.v1.ManagedFieldsEntry: manager operation apiVersion time _ fieldsType fieldsV1 subresource
meta.v1.ObjectMeta: name generateName namespace selfLink uid resourceVersion generation creationTimestamp
  deletionTimestamp deletionGracePeriodSeconds labels annotations ownerReferences finalizers _ _ managedFields
meta.v1.OwnerReference: kind _ name uid apiVersion controller blockOwnerDeletion
meta.v1.Preconditions: uid resourceVersion
`;

/** A message: for each field number, the name of its JSON member, or the message that is inlined. */
export type Numbers = readonly (string | undefined)[];

/** By the name of the struct, e.g. `core.v1.Pod`. */
export const fieldNumbers: ReadonlyMap<string, Numbers> = new Map(
  text
    .trim()
    .split(/\n(?! )/)
    .map((line) => {
      const colon = line.indexOf(':');
      const names = line
        .slice(colon + 1)
        .trim()
        .split(/\s+/);
      return [line.slice(0, colon), [undefined, ...names.map((name) => (name === '_' ? undefined : name))]];
    }),
);
