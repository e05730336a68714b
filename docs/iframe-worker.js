/* A page opened as a file cannot start a worker. This class has a worker's interface and runs the search in a hidden
   frame instead. Without it, the theme would load such a shim from the network. */
if (location.protocol === "file:") {
  class IFrameWorker extends EventTarget {
    constructor(url) {
      super()
      this.onmessage = null
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.appendChild(frame)
      const inside = frame.contentWindow
      inside.document.open()
      inside.postMessage = data => {
        const event = new MessageEvent("message", { data })
        this.dispatchEvent(event)
        if (this.onmessage) this.onmessage(event)
      }
      inside.importScripts = async (...places) => {
        for (const place of places) await load(inside.document, place)
      }
      inside.document.write("<!doctype html><html><head></head><body></body></html>")
      inside.document.close()
      this.frame = frame
      this.loaded = load(inside.document, new URL(url, document.baseURI).href)
    }

    postMessage(data) {
      const copy = structuredClone(data)
      this.loaded.then(() => {
        const inside = this.frame.contentWindow
        if (inside) inside.dispatchEvent(new inside.MessageEvent("message", { data: copy }))
      })
    }

    terminate() {
      this.frame.remove()
    }
  }

  const load = (page, place) => new Promise((resolve, reject) => {
    const script = page.createElement("script")
    script.src = place
    script.onload = resolve
    script.onerror = () => reject(new Error(`${place} cannot be loaded`))
    page.head.appendChild(script)
  })

  window.IFrameWorker = window.Worker = IFrameWorker
}
