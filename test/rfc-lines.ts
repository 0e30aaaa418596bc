/** libxl's lines of a stall, as a real Xen 4.17 host printed them (those of the RFC, with this release's locations). */

const where = 'libxl: error: libxl_device.c:1181:device_backend_callback:';

/** A creation that found every backend silent, with the destruction that follows it and xl's own second one. */
export function failedCreate(domid: number): string[] {
  const vbd = `/local/domain/0/backend/vbd/${domid}/51712`;
  return [
    `${where} Domain ${domid}:unable to add device with path ${vbd}`,
    `libxl: error: libxl_create.c:1672:domcreate_launch_dm: Domain ${domid}:unable to add disk devices`,
    `${where} Domain ${domid}:unable to remove device with path ${vbd}`,
    `libxl: error: libxl_domain.c:1530:devices_destroy_cb: Domain ${domid}:libxl__devices_destroy failed`,
    `libxl: error: libxl_domain.c:1183:libxl__destroy_domid: Domain ${domid}:Non-existant domain`,
    `libxl: error: libxl_domain.c:1137:domain_destroy_callback: Domain ${domid}:Unable to destroy guest`,
    `libxl: error: libxl_domain.c:1064:domain_destroy_cb: Domain ${domid}:Destruction of domain failed`,
  ];
}

/** A destruction whose `devices` (`vif/1/0`) did not close. */
export function failedDestroy(domid: number, ...devices: string[]): string[] {
  return [
    ...devices.map((device) => `${where} Domain ${domid}:unable to remove device with path /local/domain/0/backend/${device}`),
    `libxl: error: libxl_domain.c:1530:devices_destroy_cb: Domain ${domid}:libxl__devices_destroy failed`,
  ];
}
