#!/usr/bin/env python3
"""Draws on the page of `image_style serve` in a headless Chromium: by keyboard on a desktop, by touch on a phone.

    serve_browser.py [--screenshot PATH.png] [--prompt WORDS]... -- image_style serve --base BASE ... --port 0

Starts the server that stands behind --, looks at its page, and ends both. Checks what a person would see: pictures that
come out of the noise, finished ones that can be saved, that stopping stops and an error is told, that nothing scrolls
sideways, and that the browser's console has nothing to complain of. Exits with 77 where there is no Chromium.

The picture in the documents:

    tests/examples/serve_browser.py --screenshot docs/images/serve.png --prompt "red apple" --prompt "dog face" -- \\
        build/examples/image_style/image_style serve --base BASE --adapter RUN/adapter --port 0

PATH-phone.png, beside it, is the same on a phone in the dark.
"""
import argparse
import base64
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

DESKTOP = dict(width=1100, height=800, deviceScaleFactor=1, mobile=False)
PHONE = dict(width=360, height=740, deviceScaleFactor=2, mobile=True)
NARROWEST = dict(width=320, height=568, deviceScaleFactor=1, mobile=True)  # what WCAG asks a page to fit into
PATIENCE = 60  # seconds


class Browser:
    """Chromium with one page, spoken to through a pair of pipes: JSON messages of the DevTools protocol, each with a zero
    byte behind it."""

    def __init__(self, program, folder):
        (read_here, write_there), (read_there, write_here) = os.pipe(), os.pipe()

        def pipes():  # Chromium reads from descriptor 3 and writes to 4
            commands, answers = os.dup(read_there), os.dup(write_there)  # which may be at 3 and 4 themselves
            os.dup2(commands, 3)
            os.dup2(answers, 4)

        self.process = subprocess.Popen(
            [program, '--headless=new', '--remote-debugging-pipe', '--no-sandbox', '--disable-gpu', '--no-first-run',
             '--disable-dev-shm-usage', '--disable-background-networking', '--disable-component-update',
             f'--user-data-dir={folder}', 'about:blank'],
            preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(read_there)
        os.close(write_there)
        self.answers, self.commands = os.fdopen(read_here, 'rb'), os.fdopen(write_here, 'wb')
        self.last, self.session, self.complaints, self.rest = 0, None, [], b''
        target = self('Target.createTarget', url='about:blank')['targetId']
        self.session = self('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self(domain + '.enable')

    def __call__(self, method, **parameters):
        """The result of a command; events that come meanwhile are heard."""
        self.last += 1
        message = {'id': self.last, 'method': method, 'params': parameters}
        if self.session:
            message['sessionId'] = self.session
        self.commands.write(json.dumps(message).encode() + b'\0')
        self.commands.flush()
        while True:
            answer = self.read()
            if answer.get('id') == self.last:
                if 'error' in answer:
                    raise RuntimeError(f'{method}: {answer["error"]}')
                return answer['result']

    def read(self):
        while b'\0' not in self.rest:
            more = os.read(self.answers.fileno(), 1 << 16)
            if not more:
                raise RuntimeError('Chromium is gone')
            self.rest += more
        text, self.rest = self.rest.split(b'\0', 1)
        message = json.loads(text)
        method, event = message.get('method'), message.get('params', {})
        if method == 'Runtime.exceptionThrown':
            self.complaints.append(event['exceptionDetails'].get('exception', {}).get('description', str(event)))
        if method == 'Runtime.consoleAPICalled' and event['type'] in ('error', 'warning', 'assert'):
            self.complaints.append(str([a.get('value', a.get('description')) for a in event['args']]))
        if method == 'Log.entryAdded' and event['entry']['level'] in ('error', 'warning'):
            self.complaints.append(event['entry']['text'])
        return message

    def value(self, script):
        result = self('Runtime.evaluate', expression=script, returnByValue=True, awaitPromise=True)
        if 'exceptionDetails' in result:
            raise RuntimeError(f'{script}: {result["exceptionDetails"]}')
        return result['result'].get('value')

    def wait(self, script):
        end = time.monotonic() + PATIENCE
        while not (value := self.value(script)):
            if time.monotonic() > end:
                raise AssertionError(f'waited for {script}; the page says "{self.value(STATUS)}"')
            time.sleep(0.02)
        return value

    def key(self, name, text=''):
        code = {'Enter': 13, 'Tab': 9, 'Escape': 27}[name]
        for kind in ('keyDown', 'keyUp'):
            self('Input.dispatchKeyEvent', type=kind, key=name, code=name, windowsVirtualKeyCode=code,
                 **({'text': text} if text and kind == 'keyDown' else {}))

    def tap(self, selector):
        x, y = self.value(f'''(() => {{ const e = document.querySelector({json.dumps(selector)});
            e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect();
            return [r.x + r.width / 2, r.y + r.height / 2]; }})()''')
        self('Input.dispatchTouchEvent', type='touchStart', touchPoints=[dict(x=x, y=y)])
        self('Input.dispatchTouchEvent', type='touchEnd', touchPoints=[])

    def screenshot(self, path):
        self.value('scrollTo(0, 0)')
        with open(path, 'wb') as file:
            file.write(base64.b64decode(self('Page.captureScreenshot')['data']))

    def show(self, url, screen, scheme='light'):
        self('Emulation.setDeviceMetricsOverride', **screen)
        self('Emulation.setTouchEmulationEnabled', enabled=screen['mobile'])
        self('Emulation.setEmulatedMedia', features=[dict(name='prefers-color-scheme', value=scheme)])
        self('Page.navigate', url=url)
        self.wait("document.readyState === 'complete' && document.getElementById('steps')?.value")

    def close(self):
        self.process.terminate()
        self.process.wait()


STATUS = "document.getElementById('status').textContent"
DONE = "document.querySelectorAll('#gallery li.done').length"


def check(condition, *what):
    if not condition:
        raise AssertionError(' '.join(str(w) for w in what))


def check_width(page):
    wide = page.value('''[...document.querySelectorAll('body *')].filter(e =>
        e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5).map(e => e.outerHTML.slice(0, 80))''')
    check(not wide and page.value('document.documentElement.scrollWidth <= innerWidth'), 'too wide:', wide)


def fill(page, **fields):
    for name, value in fields.items():
        page.value(f'document.getElementById({json.dumps(name)}).value = {json.dumps(value)}')


def check_png(data):
    check(data[:8] == b'\x89PNG\r\n\x1a\n', 'not a PNG file:', data[:8])
    check(struct.unpack('>II', data[16:24])[0] >= 8, 'no picture')


def desktop(page, url, prompts, folder, screenshot):
    """With a keyboard."""
    page.show(url, DESKTOP)
    check_width(page)
    check(page.value("document.activeElement.id") == 'prompt', 'the words are not where typing begins')
    check(page.value("[...document.querySelectorAll('input, select')].every(e => e.labels.length)"), 'a field has no label')
    page.value('''{ let seen = new Set(); window.seen = seen;
        new MutationObserver(all => all.forEach(m => m.target.src && seen.add(m.target.src)))
            .observe(document.getElementById('gallery'), {subtree: true, attributes: true, attributeFilter: ['src']}); }''')
    fill(page, count=4)
    for i, prompt in enumerate(prompts):
        page.value("document.getElementById('prompt').select()")
        page('Input.insertText', text=prompt)
        page.key('Enter', '\r')
        page.wait(f'{DONE} === {4 * (i + 1)}')
    check(page.value('seen.size') > 8 * len(prompts), 'pictures did not come in steps')
    check(page.value(STATUS).startswith('Drawn in'), page.value(STATUS))
    check(page.value("document.querySelector('#gallery img').naturalWidth") >= 8, 'no picture')
    check(prompts[-1] in page.value("document.querySelector('#gallery img').alt"), 'a picture has no words')
    check(page.value("document.activeElement.id") == 'prompt', 'the focus went away')
    check_width(page)
    if screenshot:
        page.screenshot(screenshot)

    # All that can be used is reached with Tab, in the order in which it stands.
    reached = []
    for _ in range(9):
        page.key('Tab')
        reached.append(page.value("document.activeElement.id || document.activeElement.textContent"))
    reached = [r for r in reached if r != 'strength']  # only where there is an adapter
    check(reached[:7] == ['draw', 'adapter', 'count', 'steps', 'guidance', 'seed', 'Save'], 'Tab leads to', reached)

    page('Browser.setDownloadBehavior', behavior='allow', downloadPath=folder)
    page.value("document.querySelector('#gallery a').focus()")
    page.key('Enter', '\r')
    name = page.value("document.querySelector('#gallery a').download")
    check(re.fullmatch(r'[\w-]+-\d+\.png', name), name)
    end = time.monotonic() + PATIENCE
    while not os.path.exists(os.path.join(folder, name)):
        check(time.monotonic() < end, 'nothing was saved as', name)
        time.sleep(0.02)
    with open(os.path.join(folder, name), 'rb') as file:
        check_png(file.read())

    # Stopping, and what the server refuses.
    before = page.value(DONE)
    page.value("document.getElementById('form').requestSubmit(); document.getElementById('stop').click()")
    page.wait(f"{STATUS} === 'Stopped'")
    check(page.value("document.querySelectorAll('#gallery li').length") == before, 'a stopped drawing left its place')
    page.value("document.getElementById('prompt').value = 'x'.repeat(501); document.getElementById('form').requestSubmit()")
    page.wait(f"{STATUS}.includes('501 bytes')")
    refused = [c for c in page.complaints if '400' in c]  # the browser's own note of that answer
    page.complaints = [c for c in page.complaints if c not in refused]


def phone(page, url, prompts, screenshot):
    """With a finger, in the dark."""
    page.show(url, PHONE, 'dark')
    check_width(page)
    fill(page, count=4)
    for i, prompt in enumerate(prompts):
        fill(page, prompt=prompt)
        page.tap('#draw')
        page.wait(f'{DONE} === {4 * (i + 1)}')
    check_width(page)
    small = page.value('''[...document.querySelectorAll('input, select, button')].filter(e =>
        e.getBoundingClientRect().height < 40).map(e => e.id)''')
    check(not small, 'too small for a finger:', small)
    colour = page.value('getComputedStyle(document.body).backgroundColor')
    check(sum(map(int, re.findall(r'\d+', colour))) < 3 * 64, 'not dark:', colour)
    if screenshot:
        page.screenshot(re.sub(r'\.png$', '', screenshot) + '-phone.png')

    page.show(url, NARROWEST)
    fill(page, prompt='W' * 200)
    page.tap('#draw')
    page.wait(f'{DONE} === 1')
    check_width(page)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--screenshot', metavar='PATH.png')
    parser.add_argument('--prompt', action='append', dest='prompts', metavar='WORDS')
    parser.add_argument('server', nargs='+', help='the command that serves')
    arguments = parser.parse_args()
    prompts = arguments.prompts or ['red apple']
    program = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not program:
        print('skipped: there is no chromium')
        return 77
    server = subprocess.Popen(arguments.server, stdout=subprocess.PIPE, text=True)
    folder = tempfile.mkdtemp(prefix='ftlib-browser-')
    page = None
    try:
        url = next((m.group() for line in server.stdout if (m := re.search(r'http://\S+/', line))), None)
        check(url, 'the server did not start')
        page = Browser(program, os.path.join(folder, 'profile'))
        desktop(page, url, prompts, folder, arguments.screenshot)
        phone(page, url, prompts, arguments.screenshot)
        check(not page.complaints, 'the console:', page.complaints)
    finally:
        if page:
            page.close()
        server.send_signal(signal.SIGTERM)
        status = server.wait()
        shutil.rmtree(folder, ignore_errors=True)
    check(status == 0, 'the server ended with', status)
    print('the page works')
    return 0


if __name__ == '__main__':
    sys.exit(main())
