/** Hypercalls about processors: vcpus, cpupools and schedulers. What they do is in `cpus.ts`. */
import type { Hypervisor } from './hypervisor.js';
import type { PrivcmdHandlers } from './privcmd.js';

/** Answers what is asked about processors. `look` brings what is known of a domain's up to date. */
export function cpuHandlers(hypervisor: Hypervisor, look: (domid: number) => void) {
  const { cpus } = hypervisor;
  return {
    'xc.vcpu_getinfo': ({ domid, vcpu }) => {
      look(domid);
      return hypervisor.vcpuInfo(domid, vcpu);
    },
    'xc.vcpu_setaffinity': ({ domid, vcpu, ...wanted }) => cpus.setAffinity(hypervisor.cpusOf(domid), vcpu, wanted),
    'xc.domain_node_getaffinity': ({ domid }) => ({ nodes: cpus.nodesOf(hypervisor.cpusOf(domid)) }),
    'xc.cpupool_getinfo': ({ poolId }) => cpus.poolInfo(poolId),
    'xc.cpupool_freeinfo': () => ({ cpus: cpus.freeCpus() }),
    'xc.cpupool_create': ({ sched }) => ({ poolId: cpus.createPool(sched) }),
    'xc.cpupool_destroy': ({ poolId }) => act(() => cpus.destroyPool(poolId)),
    'xc.cpupool_addcpu': ({ poolId, cpu }) => act(() => cpus.addCpu(poolId, cpu)),
    'xc.cpupool_removecpu': ({ poolId, cpu }) => act(() => cpus.removeCpu(poolId, cpu)),
    'xc.cpupool_movedomain': ({ poolId, domid }) => act(() => hypervisor.moveDomain(domid, poolId)),
    'xc.sched_domain_get': ({ domid, sched }) => cpus.domainSched(hypervisor.cpusOf(domid), sched),
    'xc.sched_domain_set': ({ domid, ...params }) => act(() => cpus.setDomainSched(hypervisor.cpusOf(domid), params)),
    'xc.sched_rtds_vcpu_set': ({ domid }) => act(() => cpus.setRtds(hypervisor.cpusOf(domid))),
    'xc.sched_params_get': ({ poolId, sched }) => cpus.poolSched(poolId, sched),
    'xc.sched_params_set': ({ poolId, sched, ...params }) => act(() => cpus.setPoolSched(poolId, sched, params)),
  } satisfies Partial<PrivcmdHandlers>;
}

function act(run: () => void): null {
  run();
  return null;
}
